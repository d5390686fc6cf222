package evict

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// Reasons returns what is waited for because of pods.
func (e *Executor) Reasons(o *Observed) []nodes.Reason {
	switch {
	case e.Keys.Old == 0 || o.list == nil:
		return nil
	case e.evicts():
		return e.evictions(o.list.Pods)
	case e.waits():
		return e.renewals(o)
	}
	var out []nodes.Reason
	if e.Rolled {
		out = e.evictions(e.going(o))
	}
	for _, n := range o.judged {
		pods := o.list.on[n.Name]
		switch {
		case len(pods) == 0 || e.keeps(n):
		case e.Rolled:
			out = append(out, nodes.Reason{Words: fmt.Sprintf(
				"node %s to be replaced, on which %s%s may hold a token older than "+
					"key version %d", n.Name, nodes.PodName(pods[0].Object), andMore(len(pods)), e.Keys.Next)})
		default:
			out = append(out, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
				"%s to be deleted%s, which may hold a token older than key version %d: Keyturn did not make the node, and cannot "+
					"read it",
				nodes.PodName(pods[0].Object), andMore(len(pods)), e.Keys.Next)})
		}
	}
	return out
}

// evictions returns what the old pods wait for.
func (e *Executor) evictions(pods Pods) []nodes.Reason {
	var out []nodes.Reason
	var bare []Pod
	ending, rest := 0, 0
	for _, p := range pods.Old {
		refusal, refused := e.Memory.refusal(p.Object.UID)
		switch {
		case p.ending():
			if r, stuck := nodes.StuckPod(p.Object, e.Now); stuck {
				out = append(out, r)
				continue
			}
			ending++
		case p.bare():
			bare = append(bare, p)
		case refused:
			out = append(out, refusal.Reason(p.Object, e.Now))
		default:
			rest++
		}
	}
	if len(bare) > 0 {
		out = append(out, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
			"%s to be deleted%s, which holds a token older than key version %d and which no controller would make again: "+
				"delete it, or annotate it with %s=true to have it evicted",
			nodes.PodName(bare[0].Object), andMore(len(bare)), e.Keys.Next, v1alpha1.AnnotationEvict)})
	}
	if rest > 0 {
		out = append(out, e.unready(pods)...)
		out = append(out, nodes.Reason{Words: fmt.Sprintf(
			"%d pods to be evicted, which hold a token older than key version %d", rest, e.Keys.Next)})
	}
	if ending > 0 {
		out = append(out, nodes.Reason{Words: fmt.Sprintf("%d evicted pods to end", ending)})
	}
	return out
}

// unready returns the pods that must be ready before others are evicted.
func (e *Executor) unready(pods Pods) []nodes.Reason {
	waiting := map[*corev1.Pod]bool{}
	for _, p := range pods.Old {
		owner := pods.Owners[p.Owner]
		switch {
		case p.ending() || p.bare() || !p.Ready:
		case p.System && pods.System.Unready != nil:
			waiting[pods.System.Unready] = true
		case !owner.mayLose() && owner.Unready != nil:
			waiting[owner.Unready] = true
		}
	}
	var out []nodes.Reason
	for pod := range waiting {
		lasted := e.Now.Sub(pod.CreationTimestamp.Time)
		out = append(out, nodes.Reason{
			Words: fmt.Sprintf("%s to be ready before more pods like it are evicted",
				nodes.PodName(pod)) + nodes.Lasting(lasted),
			Blocked: lasted > nodes.Patience,
		})
	}
	slices.SortFunc(out, func(a, b nodes.Reason) int { return cmp.Compare(a.Words, b.Words) })
	return out
}

// andMore counts those that are not named.
func andMore(all int) string {
	if all == 1 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", all-1)
}
