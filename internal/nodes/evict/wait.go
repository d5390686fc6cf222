package evict

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/tokens"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// kubelets computes when the kubelets of nodes have replaced tokens on their own. The files are not read, so it uses
// the time that a working kubelet takes. Nil if files are read, or pods are evicted.
type kubelets struct {
	// ready is since when each node is ready. The kubelet of a node that is not ready replaces no token.
	ready map[string]time.Time
	// reload is how long applications may keep using a token that is no longer in its file.
	reload time.Duration
	now    time.Time
}

func newKubelets(all []*corev1.Node, reload time.Duration, now time.Time) *kubelets {
	k := &kubelets{ready: map[string]time.Time{}, reload: reload, now: now}
	for _, n := range all {
		if c := nodes.ReadyCondition(n); c.Status == corev1.ConditionTrue {
			k.ready[n.Name] = c.LastTransitionTime.Time
		}
	}
	return k
}

// newBy returns when no application of a pod uses a token from before since any more, if its node stays ready; zero if
// that is not certain.
func (k *kubelets) newBy(pod *corev1.Pod, since time.Time) time.Time {
	ready, ok := k.ready[pod.Spec.NodeName]
	if !ok || pod.DeletionTimestamp != nil {
		return time.Time{}
	}
	by := since.Add(clockSlack + tokens.Renewal(pod))
	if back := ready.Add(tokens.RenewalSlack); back.After(by) {
		by = back // it was due while the node was away
	}
	return by.Add(k.reload)
}

// pinned returns a volume of which a container that has run since before a time mounts a token by subPath; empty if
// there is none.
func pinned(pod *corev1.Pod, held []podtokens.Token, since time.Time) string {
	for _, t := range held {
		if t.Kind != podtokens.Legacy && t.Way == podtokens.SubPath && predates(startOf(pod, t.Container), since) {
			return t.Volume
		}
	}
	return ""
}

// renewals returns what the old pods of a cluster wait for whose tokens are left to kubelets.
func (e *Executor) renewals(o *Observed) (out []nodes.Reason) {
	var last time.Time
	away, rest := map[string]int{}, 0
	for _, p := range o.list.Old {
		switch {
		case p.ending():
			r, stuck := nodes.StuckPod(p.Object, e.Now)
			if !stuck {
				r = nodes.Reason{Words: nodes.PodName(p.Object) + ", which has an old token, to end"}
			}
			out = append(out, r)
		case p.Pinned != "":
			out = append(out, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
				"%s to be deleted, which mounts a token of volume %s by subPath and never sees a new one",
				nodes.PodName(p.Object), p.Pinned)})
		case p.NewBy.IsZero():
			away[p.Object.Spec.NodeName]++
		default:
			rest++
			if p.NewBy.After(last) {
				last = p.NewBy
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(away)) {
		out = append(out, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
			"node %s to be ready, whose kubelet has to replace the tokens of %d pods", node, away[node])})
	}
	if rest > 0 {
		out = append(out, nodes.Reason{Words: fmt.Sprintf("the kubelets to replace the tokens of %d pods, and these to read "+
			"the new ones, which is certain at %s", rest, last.UTC().Format(time.RFC3339))})
	}
	return out
}
