// Package evict judges pods by their age, and replaces those that may hold an old token.
//
// A kubelet requests a token for a pod after the pod was created. So a pod that was created once every API server
// signed with the new key, and once every legacy token was re-signed, holds no older token in any way. That needs
// the API and nothing else: no machine, and nobody on the node.
//
// Plan is where to start: a pure function from the pods of a cluster (Pods) to those that are to be evicted now. An
// Executor notes since when tokens are new, lists pods (Observe), asks the API server to evict some (Do), and words
// what is waited for (Reasons). With nodeRefresh Evict it moves the pods of all nodes. With the other modes it only
// judges: the pods on nodes that Keyturn did not make, and those that keep an old token although the rotation may
// end.
package evict

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// mostAtOnce is how many evictions one call asks for: it is to return soon.
	mostAtOnce = 50
	// awayPercent is how many of a controller's pods may be away at a time, rounded down, but one at least.
	awayPercent = 10
)

// Pod is one that may hold an old token.
type Pod struct {
	// Object has the metadata of the pod and its node, and no more.
	Object *corev1.Pod
	// Owner is the controller that makes another one; empty when none does.
	Owner types.UID
	// Released means that the user lets it be evicted although nothing makes another one.
	Released bool
	// System means that the cluster itself may need it.
	System bool
	Ready  bool
	// Refused means that an eviction was refused lately.
	Refused bool

	// NewBy is by when its tokens are new without an eviction, and Pinned a volume of which they never are; both are zero
	// if nobody waits for that.
	NewBy  time.Time
	Pinned string
}

func (p Pod) ending() bool { return p.Object.DeletionTimestamp != nil }

// bare reports whether nothing makes another one, and the user did not release it.
func (p Pod) bare() bool { return p.Owner == "" && !p.Released }

// Owner is what is known of the pods of one controller, or of all system pods.
type Owner struct {
	// Pods is how many there are, and Away how many of them are not ready or are ending.
	Pods, Away int
	// Unready is the youngest that is to be ready and is not; nil if there is none.
	Unready *corev1.Pod
}

// mayLose reports whether one more may go.
func (o Owner) mayLose() bool { return o.Away < max(1, o.Pods*awayPercent/100) }

// Pods are the pods of a cluster in which tokens are to be replaced.
type Pods struct {
	// Old may hold an old token.
	Old []Pod
	// Owners are the controllers of pods.
	Owners map[types.UID]Owner
	// System are the system pods, of which one goes at a time.
	System Owner
}

// Plan returns which pods to evict now.
//
// It guarantees that no pod is evicted which nothing would make again unless the user released it, that no controller
// loses more than a tenth of its pods at a time, but one, and that one system pod at most is away. A pod that is not
// ready is away already, and may always go. What budgets allow is for the API server to decide, and one pod that is
// refused holds up no other.
func Plan(pods Pods) []Pod {
	system, away := pods.System, map[types.UID]Owner{}
	var now []Pod
	for _, p := range slices.SortedStableFunc(slices.Values(pods.Old), refusedLast) {
		owner, known := away[p.Owner]
		if !known {
			owner = pods.Owners[p.Owner]
		}
		switch {
		case len(now) == mostAtOnce:
			return now
		case p.ending() || p.bare():
			continue
		case !p.Ready, p.Owner == "":
		case p.System && system.Away > 0, !owner.mayLose():
			continue
		}
		if p.Ready {
			owner.Away++
			system.Away += count(p.System)
		}
		away[p.Owner] = owner
		now = append(now, p)
	}
	return now
}

// refusedLast has the pods come first that may go: a call asks for some only.
func refusedLast(a, b Pod) int { return cmp.Compare(count(a.Refused), count(b.Refused)) }

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}
