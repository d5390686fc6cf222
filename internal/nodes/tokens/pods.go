package tokens

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// When a kubelet replaces a token on its own: see requiresRefresh in pkg/kubelet/token/token_manager.go of Kubernetes.
const (
	// renewalPercent is the percentage of its life after which a token is replaced.
	renewalPercent = 80
	// maxRenewal is the age at which it is replaced in any case (maxTTL).
	maxRenewal = 24 * time.Hour
	// RenewalSlack is how long that may take: a pod is synced each minute, and at most half a minute later
	// (syncFrequency and workerResyncIntervalJitterFactor in pkg/kubelet), plus maxJitter of the token manager.
	RenewalSlack = 90*time.Second + 10*time.Second
)

// mount is a projected token of a pod.
type mount struct {
	nodes.TokenFile
	// expiration is the requested life.
	expiration time.Duration
}

// issuedTo returns the tokens that the API server issues for a pod and that the pod holds in one way. No audience
// counts as the API server's here, since kubelets treat all tokens alike.
func issuedTo(pod *corev1.Pod, way podtokens.Way) []podtokens.Token {
	return slices.DeleteFunc(podtokens.Of(pod, podtokens.Cluster{}), func(t podtokens.Token) bool {
		return t.Kind == podtokens.Legacy || t.Way != way
	})
}

// tokenMounts returns the projected tokens of a pod, for any audience.
func tokenMounts(pod *corev1.Pod) []mount {
	var out []mount
	for _, t := range issuedTo(pod, podtokens.File) {
		file := nodes.TokenFile{Pod: pod.UID, Volume: t.Volume, Path: t.Path}
		out = append(out, mount{TokenFile: file, expiration: t.Expiration})
	}
	return out
}

// subPathToken returns a volume of which a container of the pod mounts a projected token by subPath; false if there is
// none. Such a mount keeps its content from the start of the container.
func subPathToken(pod *corev1.Pod) (volume string, found bool) {
	pinned := issuedTo(pod, podtokens.SubPath)
	if len(pinned) == 0 {
		return "", false
	}
	return pinned[0].Volume, true
}

// Renewal returns the longest time that a kubelet takes to replace every token of a pod on its own; 0 for a pod without
// projected tokens. A token that the API server issued for a shorter life than the pod requested is replaced earlier.
func Renewal(pod *corev1.Pod) time.Duration {
	var most time.Duration
	for _, m := range tokenMounts(pod) {
		most = max(most, renewedBy(time.Time{}, m.expiration).Sub(time.Time{}))
	}
	return most
}

// renewedBy returns when a kubelet has replaced a token at the latest.
func renewedBy(issued time.Time, life time.Duration) time.Time {
	return issued.Add(min(life/100*renewalPercent, maxRenewal) + RenewalSlack)
}
