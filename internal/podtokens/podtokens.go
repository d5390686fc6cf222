// Package podtokens finds the service account tokens that a pod holds, and what gives it new ones.
//
// Of answers both questions: what a rotation shows before it begins, what it replaces, and what it proves are derived
// from it. It needs only the pod, except for tokens of a volume's driver: Cluster lists which drivers request tokens.
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
	// ThirdParty is a token for another audience that ends with its pod.
	ThirdParty Kind = "ThirdParty"
	// Legacy is a token in a Secret. It does not expire.
	Legacy Kind = "Legacy"
)

// Way is how a pod holds a token.
type Way string

// The ways.
const (
	// File is a file of a volume, which the kubelet replaces.
	File Way = "file"
	// SubPath is a file of a volume that a container mounts by subPath or subPathExpr, as it was when the container
	// started.
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
	// ByContainer means that the container must restart, in the same pod.
	ByContainer Refresh = "Container"
	// ByPod means that another pod must replace this one.
	ByPod Refresh = "Pod"
	// Never means that the pod is terminating, and keeps the token until then.
	Never Refresh = "Never"
)

// Token is one service account token that a pod holds in one way.
type Token struct {
	Kind Kind
	// Audience is the audience of a token of kind ThirdParty. For a Bound token it is empty if the pod names none.
	Audience string
	// Secret holds the token if Kind is Legacy. A pod does not show the type of a Secret: callers that need it must
	// check for Secrets of type kubernetes.io/service-account-token.
	Secret string
	Way    Way
	// Volume is the name of the volume in the pod's spec; empty if Way is Environment.
	Volume string
	// Path is the path of the file in the volume, if Way is File or SubPath.
	Path string
	// Container is the container with the copy, if Way is SubPath or Environment.
	Container string
	// Expiration is the life that the pod requests; 0 if Kind is Legacy.
	Expiration time.Duration
	Refresh    Refresh
}

// Cluster is what Of must know besides the pod. With its zero value, each token that names an audience is for a third
// party, and no driver of a volume requests tokens.
type Cluster struct {
	// Audiences are the audiences of the API server.
	Audiences []string
	// Drivers are the CSI drivers that request tokens of the pods that use their volumes, by name.
	Drivers map[string]CSIDriver
	// Claims are the names of the drivers that serve PersistentVolumeClaims.
	Claims map[types.NamespacedName]string
}

// CSIDriver is the part of a CSIDriver's spec about tokens.
type CSIDriver struct {
	TokenRequests []Request
	// Republishes means that the driver gets a new token before the old one expires.
	Republishes bool
}

// Request is a token that a driver gets for each pod.
type Request struct {
	// Audience is empty for the API server.
	Audience   string
	Expiration time.Duration
}

// defaultExpiration is the life of a token if none is requested.
const defaultExpiration = time.Hour

// Of returns the service account tokens that a pod holds or, if it has not started, will hold: first those in its
// volumes, in their order, then those that its containers have copied. A pod that has ended holds none, nor does the
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
