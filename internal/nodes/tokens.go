package nodes

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// When a kubelet replaces a token by itself: see requiresRefresh in pkg/kubelet/token/token_manager.go of Kubernetes.
const (
	// renewalPercent is the part of its life after which a token is replaced.
	renewalPercent = 80
	// maxRenewal is the age at which it is replaced, however long it lives (maxTTL).
	maxRenewal = 24 * time.Hour
	// renewalSlack is how long that may take: a pod is looked at each minute, and half a minute more at most
	// (syncFrequency and workerResyncIntervalJitterFactor in pkg/kubelet), and maxJitter of the token manager.
	renewalSlack = 90*time.Second + 10*time.Second
)

// defaultExpiration is the life of a projected token whose volume does not say (expirationSeconds).
const defaultExpiration = time.Hour

// mount is a projected token of a pod.
type mount struct {
	TokenFile
	// expiration is the life that is asked for.
	expiration time.Duration
}

// tokenMounts are the projected tokens of a pod, whatever their audience.
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
			m := mount{TokenFile: TokenFile{Pod: pod.UID, Volume: v.Name, Path: s.ServiceAccountToken.Path}, expiration: defaultExpiration}
			if e := s.ServiceAccountToken.ExpirationSeconds; e != nil {
				m.expiration = time.Duration(*e) * time.Second
			}
			out = append(out, m)
		}
	}
	return out
}

// SubPathToken names a volume from which a container of a pod mounts a projected token by subPath; false when there is none.
// What is mounted so stays as it was when the container started. An init container that has ended mounts nothing any more.
func SubPathToken(pod *corev1.Pod) (volume string, found bool) {
	mounts := tokenMounts(pod)
	if len(mounts) == 0 {
		return "", false
	}
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

// Renewal is how long a kubelet takes, at most, to replace every token of a pod by itself; 0 for a pod without projected
// tokens. A token that the API server issued for a shorter life than the pod asks for is replaced earlier.
func Renewal(pod *corev1.Pod) time.Duration {
	var most time.Duration
	for _, m := range tokenMounts(pod) {
		most = max(most, renewedBy(time.Time{}, m.expiration).Sub(time.Time{}))
	}
	return most
}

// pins says that a mount shows a file of a volume as it was when the container started.
func pins(m corev1.VolumeMount, file string) bool {
	if m.SubPathExpr != "" {
		return true // whatever it becomes
	}
	sub := path.Clean(m.SubPath)
	return sub != "." && (sub == path.Clean(file) || strings.HasPrefix(path.Clean(file), sub+"/"))
}

// podTokens is a pod on a machine, and what is in its token files: one for each of its tokenMounts.
type podTokens struct {
	pod    *corev1.Pod
	tokens []Token
}

// tokenSight is what the tokens on a machine say about its refresh.
type tokenSight struct {
	// known says that they could be looked at, and trouble why not.
	known   bool
	trouble string
	// old says which files do not have a token of the new key yet.
	old []string
	// sure is when the kubelet will have replaced them all by itself.
	sure time.Time
	// held says which pods use an older token whatever is in their file, and what is to be done.
	held []reason
	// youngest is when the last file was replaced that has had an older token; zero when there is none.
	youngest time.Time
}

// judge holds the tokens on a machine against what its refresh is for. keyID is the kid of the new key.
func judge(how v1alpha1.NodeRefresh, r Refresh, keyID string, pods []podTokens, now time.Time) tokenSight {
	s := tokenSight{known: true}
	for _, p := range pods {
		s.addPod(how, r, keyID, p, now)
	}
	return s
}

func (s *tokenSight) addPod(how v1alpha1.NodeRefresh, r Refresh, keyID string, p podTokens, now time.Time) {
	name := fmt.Sprintf("pod %s/%s", p.pod.Namespace, p.pod.Name)
	// Whatever token a pod has that was made since, it is new.
	older := p.pod.CreationTimestamp.Time.Before(r.Since)
	volume, pinned := SubPathToken(p.pod)
	pinned = pinned && older
	if p.pod.DeletionTimestamp != nil {
		s.addEnding(name, p, pinned, keyID, now)
		return
	}
	if pinned {
		s.held = append(s.held, reason{blocked: true, words: fmt.Sprintf(
			"%s mounts a token of volume %s by subPath and never sees a new one: delete the pod so that it is made anew", name, volume)})
	}
	for i, m := range tokenMounts(p.pod) {
		switch t := p.tokens[i]; {
		case t.Problem != "":
			s.add(fmt.Sprintf("%s, whose volume %s has no token in %s (%s),", name, m.Volume, m.Path, t.Problem), now.Add(renewalSlack))
		case t.Missing && p.pod.Status.Phase != corev1.PodPending:
			s.add(fmt.Sprintf("%s, whose volume %s has no file %s,", name, m.Volume, m.Path), now.Add(renewalSlack))
		case t.Missing && older:
			s.addUnstarted(how, r, name, m, now)
		case t.Missing:
			// It gets its first token when it starts.
		case t.KeyID != keyID:
			s.add(name, renewedBy(t.IssuedAt, t.RenewBy.Sub(t.IssuedAt)))
		case older:
			s.youngest = later(s.youngest, earlier(t.Replaced, now))
		}
	}
}

// add adds a file without a new token, and when it is sure to have one.
func (s *tokenSight) add(name string, sure time.Time) {
	s.old = append(s.old, name)
	s.sure = later(s.sure, sure)
}

// addEnding is about a pod that is to end: its kubelet replaces no tokens of it any more.
func (s *tokenSight) addEnding(name string, p podTokens, pinned bool, keyID string, now time.Time) {
	old := func(t Token) bool { return t.Problem != "" || !t.Missing && t.KeyID != keyID }
	if !pinned && !slices.ContainsFunc(p.tokens, old) {
		return
	}
	if r, stands := stuck(name, p.pod, now); stands {
		s.held = append(s.held, r)
		return
	}
	s.held = append(s.held, reason{words: name + ", which has an old token, to end"})
}

// addUnstarted is about a pod that has no token yet, for which the kubelet may have fetched one before: it waits, with that in
// memory, for something else that the volume needs. A kubelet that was started since has forgotten it.
func (s *tokenSight) addUnstarted(how v1alpha1.NodeRefresh, r Refresh, name string, m mount, now time.Time) {
	sure := renewedBy(r.Since, m.expiration)
	if how == v1alpha1.NodeRefreshInPlace && !r.Kubelet.IsZero() || !now.Before(sure) {
		return
	}
	s.add(name+", which has not started,", sure)
}

// renewedBy is when a kubelet has replaced a token, at the latest.
func renewedBy(issued time.Time, life time.Duration) time.Time {
	return issued.Add(min(life/100*renewalPercent, maxRenewal) + renewalSlack)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
