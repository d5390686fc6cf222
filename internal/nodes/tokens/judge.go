package tokens

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// podTokens is a pod on a machine, and the content of its token files: one for each of its tokenMounts.
type podTokens struct {
	pod    *corev1.Pod
	tokens []nodes.Token
}

// Held describes the tokens of the pods on a machine, compared with what its refresh is for.
type Held struct {
	// Known means that they could be read; otherwise Trouble is why not.
	Known   bool
	Trouble string
	// Old are the files without a token of the new key.
	Old []string
	// RenewedBy is when the kubelet will have replaced them all on its own.
	RenewedBy time.Time
	// Stuck are the pods that use an older token regardless of their files, and what to do about them.
	Stuck []nodes.Reason
	// Renewed means that some pod may have had an older token in a file that has a new one now.
	Renewed bool
}

// judge compares the tokens on a machine with what its refresh is for. keyID is the kid of the new key.
func judge(how v1alpha1.NodeRefresh, r nodes.Refresh, keyID string, pods []podTokens, now time.Time) Held {
	h := Held{Known: true}
	for _, p := range pods {
		h.addPod(how, r, keyID, p, now)
	}
	return h
}

func (h *Held) addPod(how v1alpha1.NodeRefresh, r nodes.Refresh, keyID string, p podTokens, now time.Time) {
	name := nodes.PodName(p.pod)
	// A pod that was created later has no older token.
	older := p.pod.CreationTimestamp.Time.Before(r.Since)
	volume, pinned := subPathToken(p.pod)
	pinned = pinned && older
	if p.pod.DeletionTimestamp != nil {
		h.addEnding(name, p, pinned, keyID, now)
		return
	}
	if pinned {
		h.Stuck = append(h.Stuck, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
			"%s to be deleted, which mounts a token of volume %s by subPath and never sees a new one", name, volume)})
	}
	for i, m := range tokenMounts(p.pod) {
		switch t := p.tokens[i]; {
		case t.Problem != "":
			words := fmt.Sprintf("%s, whose volume %s has no token in %s (%s),", name, m.Volume, m.Path, t.Problem)
			h.add(words, now.Add(RenewalSlack))
		case t.Missing && p.pod.Status.Phase != corev1.PodPending:
			h.add(fmt.Sprintf("%s, whose volume %s has no file %s,", name, m.Volume, m.Path), now.Add(RenewalSlack))
		case t.Missing && older:
			h.addUnstarted(how, r, name, m, now)
		case t.Missing:
			// It gets its first token when it starts.
		case t.KeyID != keyID:
			h.add(name, renewedBy(t.IssuedAt, t.RenewBy.Sub(t.IssuedAt)))
		case older:
			h.Renewed = true
		}
	}
}

// add adds a file without a new token, and when it will have one at the latest.
func (h *Held) add(name string, by time.Time) {
	h.Old = append(h.Old, name)
	h.RenewedBy = later(h.RenewedBy, by)
}

// addEnding handles a pod that is terminating: its kubelet replaces its tokens no longer.
func (h *Held) addEnding(name string, p podTokens, pinned bool, keyID string, now time.Time) {
	old := func(t nodes.Token) bool { return t.Problem != "" || !t.Missing && t.KeyID != keyID }
	if !pinned && !slices.ContainsFunc(p.tokens, old) {
		return
	}
	if r, late := nodes.StuckPod(p.pod, now); late {
		h.Stuck = append(h.Stuck, r)
		return
	}
	h.Stuck = append(h.Stuck, nodes.Reason{Words: name + ", which has an old token, to end"})
}

// addUnstarted handles a pod that has not started. Its kubelet may already hold an old token in memory while the volume
// waits for something else; a restart of the kubelet drops it.
func (h *Held) addUnstarted(how v1alpha1.NodeRefresh, r nodes.Refresh, name string, m mount, now time.Time) {
	by := renewedBy(r.Since, m.expiration)
	if how == v1alpha1.NodeRefreshInPlace && !r.Kubelet.IsZero() || !now.Before(by) {
		return
	}
	h.add(name+", which has not started,", by)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
