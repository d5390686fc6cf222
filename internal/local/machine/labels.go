package machine

import (
	"slices"
	"strings"
)

// MayRegisterWith reports whether a kubelet accepts a label for its own node. Of the labels in Kubernetes domains, it
// refuses all but a few, and does not start (k8s.io/kubelet/pkg/apis, IsKubeletLabel).
func MayRegisterWith(label string) bool {
	domain, _, found := strings.Cut(label, "/")
	if !found || !inDomain(domain, "kubernetes.io") && !inDomain(domain, "k8s.io") {
		return true
	}
	return inDomain(domain, "kubelet.kubernetes.io") || inDomain(domain, "node.kubernetes.io") ||
		slices.Contains(kubeletLabels, label)
}

func inDomain(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

// kubeletLabels are the single labels that a kubelet may set.
var kubeletLabels = []string{
	"kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os",
	"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
	"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	"beta.kubernetes.io/instance-type", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}
