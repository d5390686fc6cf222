// Package podtokens finds the service account tokens that a pod holds, and what gives it new ones.
//
// Of is the one answer to both questions: what a rotation shows before it begins, what it replaces, and what it proves
// follow from it. It needs the pod and nothing else, but for the tokens that a volume's driver gets: which drivers ask
// for tokens is in Cluster.
//
// The rules are the kubelet's: see pkg/kubelet/volumemanager (a volume that no container mounts is not set up),
// pkg/volume/projected and pkg/volume/csi of Kubernetes.
package podtokens

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is a kind of service account token.
type Kind string

// The kinds.
const (
	// Bound is a token for the API server that ends with its pod.
	Bound Kind = "Bound"
	// ThirdParty is a token for somebody else that ends with its pod.
	ThirdParty Kind = "ThirdParty"
	// Legacy is a token in a Secret. It has no end.
	Legacy Kind = "Legacy"
)

// Way is how a pod holds a token.
type Way string

// The ways.
const (
	// File is a file of a volume, which the kubelet replaces.
	File Way = "file"
	// SubPath is a file of a volume as it was when a container started that mounts it by subPath or subPathExpr.
	SubPath Way = "subPath"
	// Environment is the environment of a container, by env or envFrom.
	Environment Way = "environment"
	// Driver is the memory of the driver that serves a volume.
	Driver Way = "driver"
)

// Refresh is what gives a pod a new token once there is one.
type Refresh string

// The refreshes.
const (
	// ByKubelet means that the kubelet replaces it while the pod runs.
	ByKubelet Refresh = "Kubelet"
	// ByContainer means that the container must start again, in the same pod.
	ByContainer Refresh = "Container"
	// ByPod means that another pod must take the place of this one.
	ByPod Refresh = "Pod"
	// Never means that the pod is ending, and keeps the token until then.
	Never Refresh = "Never"
)

// Token is one service account token that a pod holds in one way.
type Token struct {
	Kind Kind
	// Audience is who a token of kind ThirdParty is for. Of a Bound token it is empty if the pod names none.
	Audience string
	// Secret holds the token if Kind is Legacy. A pod does not tell what a Secret is for: whoever needs to know looks
	// for Secrets of type kubernetes.io/service-account-token.
	Secret string
	Way    Way
	// Volume is the name of the volume in the pod's spec; empty if Way is Environment.
	Volume string
	// Path is that of the file in the volume, if Way is File or SubPath.
	Path string
	// Container is who holds a copy of its own, if Way is SubPath or Environment.
	Container string
	// Expiration is the life that the pod asks for; 0 if Kind is Legacy.
	Expiration time.Duration
	Refresh    Refresh
}

// Cluster is what Of has to know besides the pod. With its zero value each token that names an audience is for a third
// party, and no driver of a volume asks for tokens.
type Cluster struct {
	// Audiences are those of the API server.
	Audiences []string
	// Drivers are the CSI drivers that ask for tokens of the pods that use their volumes, by name.
	Drivers map[string]CSIDriver
	// Claims are the names of the drivers that serve PersistentVolumeClaims.
	Claims map[types.NamespacedName]string
}

// CSIDriver is what the spec of a CSIDriver says of tokens.
type CSIDriver struct {
	TokenRequests []Request
	// Republishes means that the driver gets a new token before the old one ends.
	Republishes bool
}

// Request is a token that a driver gets for each pod.
type Request struct {
	// Audience is empty for the API server.
	Audience   string
	Expiration time.Duration
}

// defaultExpiration is the life of a token for which none is asked.
const defaultExpiration = time.Hour

// Of returns the service account tokens that a pod holds or, if it has not started, is going to hold: those in its
// volumes, in their order, before those that its containers have copied. A pod that has ended holds none, nor does the
// mirror of a static pod, which cannot have any.
func Of(pod *corev1.Pod, c Cluster) []Token {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror || ended(pod) {
		return nil
	}
	tokens := c.inVolumes(pod)
	for _, one := range liveContainers(pod) {
		for _, t := range one.copies(tokens) {
			tokens = appendNew(tokens, t)
		}
	}
	if pod.DeletionTimestamp != nil {
		for i := range tokens {
			tokens[i].Refresh = Never
		}
	}
	return tokens
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func appendNew(tokens []Token, t Token) []Token {
	if slices.Contains(tokens, t) {
		return tokens
	}
	return append(tokens, t)
}
