package kubeadm

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent/agentpod"
	"github.com/keyturn/keyturn/internal/hostkeys"
)

// signerSocket is the socket of the signer that Keyturn puts beside an API server.
const signerSocket = agentpod.SignerDir + "/socket"

// Unwritable returns why keyturn-agent cannot change the keys of an API server of a cluster, by the flags of that API
// server, as a sentence without its period; empty if it can.
func (s Server) Unwritable(of v1alpha1.Infrastructure) string {
	public, private := keyFiles(of.CertificatesDir())
	switch {
	case s.SignerSocket == signerSocket:
		return ""
	case s.SignerSocket != "":
		return fmt.Sprintf("the API server on node %s signs with the signer at %s, which is not Keyturn's: set its flags "+
			"back to %s and %s", s.Node, s.SignerSocket, public, private)
	case s.SignFile == "" || s.SignFile == private && slices.Equal(s.VerifyFiles, []string{public}):
		return ""
	}
	advice := "put the keys there"
	if dir := path.Dir(s.SignFile); of.Kubeadm != nil {
		if public, private := keyFiles(dir); s.SignFile == private && slices.Equal(s.VerifyFiles, []string{public}) {
			advice = "set infrastructure.kubeadm.certificatesDir to " + dir
		}
	}
	return fmt.Sprintf("the API server on node %s signs with %s and verifies with %s: Keyturn changes only %s and %s, "+
		"so %s", s.Node, s.SignFile, strings.Join(s.VerifyFiles, ", "), private, public, advice)
}

// keyFiles are the files that kubeadm has in a certificatesDir for the keys of service account tokens.
func keyFiles(certificatesDir string) (public, private string) {
	return path.Join(certificatesDir, "sa.pub"), path.Join(certificatesDir, "sa.key")
}

// unwritable are why keyturn-agent cannot change the keys of the API servers that stay.
func (f Found) unwritable(of v1alpha1.Infrastructure) (problems []string) {
	for _, s := range f.Servers {
		if why := s.Unwritable(of); why != "" && !s.Leaving {
			problems = append(problems, why)
		}
	}
	return problems
}

// noSigner returns Server.NoSigner. The agent refuses such a conversion too, by the manifest.
func noSigner(p corev1.Pod, flags flagSet) string {
	if !isRoot(p) {
		return fmt.Sprintf("kube-apiserver on node %s does not run as root, and only root may reach the socket of its signer",
			p.Spec.NodeName)
	}
	const flag = "service-account-max-token-expiration"
	value := flags.last(flag)
	if d, err := time.ParseDuration(value); value != "" && (err != nil || d > hostkeys.MaxTokenExpiration) {
		return fmt.Sprintf("kube-apiserver on node %s has --%s=%s, and a signer signs tokens for at most %v", p.Spec.NodeName,
			flag, value, hostkeys.MaxTokenExpiration)
	}
	return ""
}

// isRoot reports whether a kube-apiserver runs as the host's root, as far as its pod decides it.
func isRoot(p corev1.Pod) bool {
	if p.Spec.HostUsers != nil && !*p.Spec.HostUsers {
		return false
	}
	no := func(user *int64, nonRoot *bool) bool { return user != nil && *user != 0 || nonRoot != nil && *nonRoot }
	if s := p.Spec.SecurityContext; s != nil && no(s.RunAsUser, s.RunAsNonRoot) {
		return false
	}
	return !slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		s := c.SecurityContext
		return c.Name == apiServer && s != nil && no(s.RunAsUser, s.RunAsNonRoot)
	})
}

// flagSet has the values of each flag of a command, in their order.
type flagSet map[string][]string

// last returns the value that counts of a flag that takes one; empty when it is not set.
func (f flagSet) last(name string) string {
	values := f[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// flagsOf reads the flags of a component from its pod. What it does not understand is an error.
func flagsOf(p corev1.Pod, component string) (flagSet, error) {
	i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == component })
	if i < 0 {
		return nil, fmt.Errorf("its pod has no container %s", component)
	}
	c := p.Spec.Containers[i]
	command := append(slices.Clone(c.Command), c.Args...)
	if len(command) == 0 || path.Base(command[0]) != component {
		return nil, fmt.Errorf("its container does not run %s directly", component)
	}
	flags := flagSet{}
	for rest := command[1:]; len(rest) > 0; rest = rest[1:] {
		name, ok := strings.CutPrefix(rest[0], "--")
		if !ok {
			return nil, fmt.Errorf("argument %q is not a flag", rest[0])
		}
		name, value, ok := strings.Cut(name, "=")
		if !ok { // a flag of its own, or one whose value is the next argument
			value = "true"
			if len(rest) > 1 && !strings.HasPrefix(rest[1], "--") {
				value, rest = rest[1], rest[1:]
			}
		}
		flags[name] = append(flags[name], value)
	}
	return flags, nil
}

// mounted reports whether a file is in a directory of the host: only there does a container see a file that replaced
// another.
func mounted(p corev1.Pod, file string) bool {
	ofHost := func(volume string) bool {
		return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == volume && v.HostPath != nil
		})
	}
	for _, c := range p.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if ofHost(m.Name) && m.SubPath == "" && strings.HasPrefix(path.Clean(file), path.Clean(m.MountPath)+"/") {
				return true
			}
		}
	}
	return false
}
