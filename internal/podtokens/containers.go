package podtokens

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// container is a container of any kind.
type container struct {
	*corev1.Container
	// restarts means that it is restarted when it ends, with any exit code.
	restarts bool
}

// containers returns all containers of a pod: init containers and sidecars, the others, ephemeral ones.
func containers(pod *corev1.Pod) []container {
	var all []container
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		all = append(all, container{c, always(c.RestartPolicy)})
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		all = append(all, container{c, always(c.RestartPolicy) || c.RestartPolicy == nil && restarts(pod)})
	}
	for i := range pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		all = append(all, container{c, false})
	}
	return all
}

func always(p *corev1.ContainerRestartPolicy) bool {
	return p != nil && *p == corev1.ContainerRestartPolicyAlways
}

// restarts reports whether the containers of a pod are restarted by default. For the API server, an empty policy means
// Always.
func restarts(pod *corev1.Pod) bool {
	return pod.Spec.RestartPolicy == corev1.RestartPolicyAlways || pod.Spec.RestartPolicy == ""
}

// liveContainers omits those that have ended. A restarted container gets the current content.
func liveContainers(pod *corev1.Pod) []container {
	var over []string
	for _, s := range slices.Concat(
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	) {
		if s.State.Terminated != nil {
			over = append(over, s.Name)
		}
	}
	return slices.DeleteFunc(containers(pod), func(c container) bool { return slices.Contains(over, c.Name) })
}

// copies returns the tokens that the container copied when it started: by subPath, from the volumes, and into its
// environment.
func (c container) copies(inVolumes []Token) []Token {
	var tokens []Token
	for _, m := range c.VolumeMounts {
		for _, t := range inVolumes {
			if t.Way == File && t.Volume == m.Name && pins(m, t.Path) {
				t.Way = SubPath
				tokens = append(tokens, t)
			}
		}
	}
	for _, secret := range c.environmentSecrets() {
		tokens = append(tokens, Token{Kind: Legacy, Secret: secret, Way: Environment})
	}
	for i := range tokens {
		tokens[i].Container, tokens[i].Refresh = c.Name, ByPod
		if c.restarts {
			tokens[i].Refresh = ByContainer
		}
	}
	return tokens
}

// environmentSecrets returns the Secrets whose token is in the environment.
func (c container) environmentSecrets() []string {
	var secrets []string
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if ref := e.ValueFrom.SecretKeyRef; ref != nil && ref.Key == corev1.ServiceAccountTokenKey {
			secrets = append(secrets, ref.Name)
		}
	}
	for _, f := range c.EnvFrom {
		if f.SecretRef != nil {
			secrets = append(secrets, f.SecretRef.Name)
		}
	}
	return secrets
}

// pins reports whether a mount shows a file of a volume as it was when the container started. The files of a volume are
// links into a directory ..data, which is a link to the newest version. A mount of any of these mounts the target of
// the link at that time.
func pins(m corev1.VolumeMount, file string) bool {
	if m.SubPathExpr != "" {
		return true // it may expand to anything
	}
	sub := path.Clean(m.SubPath)
	if sub == "." {
		return false
	}
	if first, rest, _ := strings.Cut(sub, "/"); strings.HasPrefix(first, "..") {
		sub = path.Clean(rest)
	}
	file = path.Clean(file)
	return sub == "." || sub == file || strings.HasPrefix(file, sub+"/")
}
