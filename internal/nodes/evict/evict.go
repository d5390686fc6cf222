// Package evict finds pods that may hold an old token, by their age, and replaces them.
//
// A kubelet requests a token for a pod after the pod was created. So a pod that was created after every API server
// signed with the new key, and after every legacy token was signed again, holds no older token. This needs only the
// API: no machine, and nothing on the node.
//
// Start with Plan: a pure function from the pods of a cluster (Pods) to those to evict now. An Executor records since
// when tokens are new, lists pods (Observe), asks the API server to evict some (Do), and describes what it waits for
// (Reasons). With nodeRefresh Evict it evicts pods on all nodes. With Replace it evicts those that API servers refuse
// until they start again, since their nodes may be replaced only hours later. It also judges the pods on nodes that
// Keyturn did not make, and those that keep an old token without blocking the rotation.
package evict

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// mostAtOnce is how many evictions one call requests, since it must return quickly.
	mostAtOnce = 50
	// awayPercent is the percentage of a controller's pods that may be missing at a time, rounded down, but at least
	// one.
	awayPercent = 10
)

// Pod is a pod that may hold an old token.
type Pod struct {
	// Object has only the metadata of the pod, and its node.
	Object *corev1.Pod
	// Owner is the controller that recreates it; empty if none does.
	Owner types.UID
	// Released means that the user allows its eviction although nothing recreates it.
	Released bool
	// System means that the cluster itself may depend on it.
	System bool
	Ready  bool
	// Dead means that it has a copy of a legacy token that was since signed again: API servers refuse the copy.
	Dead bool
	// Refused means that an eviction was recently refused.
	Refused bool

	// NewBy is when its tokens are new at the latest without an eviction, and Pinned is a volume whose token never
	// becomes new. Both are zero if nobody waits for that.
	NewBy  time.Time
	Pinned string
}

func (p Pod) ending() bool { return p.Object.DeletionTimestamp != nil }

// bare reports whether nothing recreates it and the user did not release it.
func (p Pod) bare() bool { return p.Owner == "" && !p.Released }

// Owner describes the pods of one controller, or all system pods.
type Owner struct {
	// Pods is their number, and Away how many of them are not ready or are terminating.
	Pods, Away int
	// Unready is the youngest that should be ready and is not; nil if there is none.
	Unready *corev1.Pod
}

// mayLose reports whether one more may be evicted.
func (o Owner) mayLose() bool { return o.Away < max(1, o.Pods*awayPercent/100) }

// Pods are the pods of a cluster in which tokens are being replaced.
type Pods struct {
	// Old are the pods that may hold an old token.
	Old []Pod
	// Owners are the controllers of pods.
	Owners map[types.UID]Owner
	// System describes the system pods, of which one is evicted at a time.
	System Owner
}

// Plan returns which pods to evict now.
//
// It guarantees that no pod is evicted that nothing recreates, unless the user released it, that no controller loses
// more than a tenth of its pods at a time, but one in any case, and that at most one system pod is missing. A pod that
// is not ready is already missing, and may always be evicted. The API server decides what budgets allow, and one
// refused pod does not block the others.
func Plan(pods Pods) []Pod {
	system, away := pods.System, map[types.UID]Owner{}
	var now []Pod
	for _, p := range slices.SortedStableFunc(slices.Values(pods.Old), inTurn) {
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

// inTurn orders pods that may go first, since a call evicts only some, and among those the pods with a dead token
// first.
func inTurn(a, b Pod) int {
	return cmp.Or(cmp.Compare(count(a.Refused), count(b.Refused)), cmp.Compare(count(b.Dead), count(a.Dead)))
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}
