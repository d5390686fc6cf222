package legacytoken

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// use is a running pod's use of the token of a Secret.
type use struct {
	pod     string
	created time.Time
	// mounted says that a volume projects the token, which its kubelet keeps up to date.
	mounted bool
	// copied says how the pod holds a copy besides that nothing refreshes: Environment, SubPath or not at all.
	copied string
	// told is the write of which the pod was told last.
	told write
}

// write is one re-signing of a Secret: by which key version, and the resourceVersion that it led to. Kubernetes
// promises since 1.35 that these numbers can be compared (KEP-5504).
type write struct {
	version         int
	resourceVersion uint64
}

func writeOf(version int, s *corev1.Secret) write {
	number, _ := strconv.ParseUint(s.ResourceVersion, 10, 64)
	return write{version: version, resourceVersion: number}
}

// String is the value of the annotation. It differs from write to write: a pod that mounts several Secrets changes with
// each, and a kubelet acts on a change only.
func (w write) String() string { return fmt.Sprintf("%d.%d", w.version, w.resourceVersion) }

// parseWrite is the opposite of String. What it cannot read is older than all.
func parseWrite(s string) write {
	version, number, _ := strings.Cut(s, ".")
	v, err := strconv.Atoi(version)
	if err != nil {
		return write{}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return write{}
	}
	return write{version: v, resourceVersion: n}
}

func (w write) before(other write) bool {
	return w.version < other.version || w.version == other.version && w.resourceVersion < other.resourceVersion
}

// appendUses appends the uses of Secrets by a pod, unless its kubelet would not act: mirror pods are not the API server's
// to change, and nothing is projected into a pod that ends.
func appendUses(items []item[use], pod *corev1.Pod) []item[use] {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror || pod.DeletionTimestamp != nil {
		return items
	}
	mounted, copied := mountedSecrets(&pod.Spec), copiedSecrets(&pod.Spec)
	for name := range mounted {
		items = append(items, newUse(pod, name, true, copied[name]))
		delete(copied, name)
	}
	for name, by := range copied {
		items = append(items, newUse(pod, name, false, by))
	}
	return items
}

func newUse(pod *corev1.Pod, secret string, mounted bool, copied string) item[use] {
	return item[use]{namespace: pod.Namespace, name: secret, value: use{
		pod:     pod.Name,
		created: pod.CreationTimestamp.Time,
		mounted: mounted,
		copied:  copied,
		told:    parseWrite(pod.Annotations[v1alpha1.AnnotationTokenRefreshed]),
	}}
}

// mountedSecrets returns the Secrets whose token a volume projects.
func mountedSecrets(spec *corev1.PodSpec) map[string]bool {
	secrets := map[string]bool{}
	for i := range spec.Volumes {
		for _, name := range tokensIn(&spec.Volumes[i]) {
			secrets[name] = true
		}
	}
	return secrets
}

func tokensIn(v *corev1.Volume) []string {
	var names []string
	if s := v.Secret; s != nil && hasToken(s.Items) {
		names = append(names, s.SecretName)
	}
	if v.Projected == nil {
		return names
	}
	for _, source := range v.Projected.Sources {
		if s := source.Secret; s != nil && hasToken(s.Items) {
			names = append(names, s.Name)
		}
	}
	return names
}

// hasToken says whether the token is among the items; none are all.
func hasToken(items []corev1.KeyToPath) bool {
	for _, item := range items {
		if item.Key == corev1.ServiceAccountTokenKey {
			return true
		}
	}
	return len(items) == 0
}

// copiedSecrets returns the Secrets whose token a container copied when it started, and how. Init containers that
// are no sidecars are done by then.
func copiedSecrets(spec *corev1.PodSpec) map[string]string {
	copied := map[string]string{}
	volumes := map[string][]string{}
	for i := range spec.Volumes {
		volumes[spec.Volumes[i].Name] = tokensIn(&spec.Volumes[i])
	}
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			copies(copied, volumes, c.VolumeMounts, c.Env, c.EnvFrom)
		}
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		copies(copied, volumes, c.VolumeMounts, c.Env, c.EnvFrom)
	}
	for i := range spec.EphemeralContainers {
		c := &spec.EphemeralContainers[i]
		copies(copied, volumes, c.VolumeMounts, c.Env, c.EnvFrom)
	}
	return copied
}

func copies(copied map[string]string, volumes map[string][]string, mounts []corev1.VolumeMount, env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, m := range mounts {
		if m.SubPath == "" && m.SubPathExpr == "" {
			continue
		}
		for _, name := range volumes[m.Name] {
			copied[name] = SubPath
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
			continue
		}
		if ref := e.ValueFrom.SecretKeyRef; ref.Key == corev1.ServiceAccountTokenKey {
			copied[ref.Name] = Environment
		}
	}
	for _, f := range from {
		if f.SecretRef != nil {
			copied[f.SecretRef.Name] = Environment
		}
	}
}

// notify annotates a pod, so that its kubelet projects what its Secrets hold now. A pod that is gone needs nothing.
func notify(ctx context.Context, client kubernetes.Interface, namespace, pod string, w write) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationTokenRefreshed, w)
	_, err := client.CoreV1().Pods(namespace).Patch(ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotating pod %s/%s: %w", namespace, pod, err)
	}
	return nil
}
