package tokens

import (
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

// When a kubelet replaces a token on its own: see requiresRefresh in pkg/kubelet/token/token_manager.go of Kubernetes.
const (
	// renewalPercent is the part of its life after which a token is replaced.
	renewalPercent = 80
	// maxRenewal is the age at which it is replaced, however long it lives (maxTTL).
	maxRenewal = 24 * time.Hour
	// renewalSlack is how long that may take: a pod is synced each minute, and half a minute more at most
	// (syncFrequency and workerResyncIntervalJitterFactor in pkg/kubelet), and maxJitter of the token manager.
	renewalSlack = 90*time.Second + 10*time.Second
)

// defaultExpiration is the life of a projected token without expirationSeconds.
const defaultExpiration = time.Hour

// mount is a projected token of a pod.
type mount struct {
	nodes.TokenFile
	// expiration is the life that is asked for.
	expiration time.Duration
}

// tokenMounts are the projected tokens of a pod, of any audience.
func tokenMounts(pod *corev1.Pod) []mount {
	var out []mount
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken == nil {
				continue
			}
			file := nodes.TokenFile{Pod: pod.UID, Volume: v.Name, Path: s.ServiceAccountToken.Path}
			m := mount{TokenFile: file, expiration: defaultExpiration}
			if e := s.ServiceAccountToken.ExpirationSeconds; e != nil {
				m.expiration = time.Duration(*e) * time.Second
			}
			out = append(out, m)
		}
	}
	return out
}

// SubPathToken names a volume from which a container of a pod mounts a projected token by subPath; false when there is
// none. Such a mount stays as it was when the container started. An init container that has ended has no mounts.
func SubPathToken(pod *corev1.Pod) (volume string, found bool) {
	mounts := tokenMounts(pod)
	var ended []string
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.State.Terminated != nil {
			ended = append(ended, s.Name)
		}
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if slices.Contains(ended, c.Name) {
			continue
		}
		for _, m := range c.VolumeMounts {
			if slices.ContainsFunc(mounts, func(t mount) bool { return t.Volume == m.Name && pins(m, t.Path) }) {
				return m.Name, true
			}
		}
	}
	return "", false
}

// Renewal is how long a kubelet takes, at most, to replace every token of a pod on its own; 0 for a pod without
// projected tokens. A token that the API server issued for a shorter life than the pod asks for is replaced earlier.
func Renewal(pod *corev1.Pod) time.Duration {
	var most time.Duration
	for _, m := range tokenMounts(pod) {
		most = max(most, renewedBy(time.Time{}, m.expiration).Sub(time.Time{}))
	}
	return most
}

// pins reports whether a mount shows a file of a volume as it was when the container started.
func pins(m corev1.VolumeMount, file string) bool {
	if m.SubPathExpr != "" {
		return true // it may become anything
	}
	sub := path.Clean(m.SubPath)
	return sub != "." && (sub == path.Clean(file) || strings.HasPrefix(path.Clean(file), sub+"/"))
}

// renewedBy is when a kubelet has replaced a token, at the latest.
func renewedBy(issued time.Time, life time.Duration) time.Time {
	return issued.Add(min(life/100*renewalPercent, maxRenewal) + renewalSlack)
}
