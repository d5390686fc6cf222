package controller

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/rotation"
)

// nodesEvery is every how many routine rounds the nodes are observed.
const nodesEvery = 3

// settled is the state of a cluster when a round last found nothing to do. The next round is a routine one if only the
// passing of time caused it, and the spec, the keys and the control plane have not changed.
//
// A routine round makes fewer requests to the cluster. It decides only that the cluster is still settled: if it finds
// anything else, it ends without a write, and a round that asks for everything follows at once.
type settled struct {
	// state is a hash that changes with the state of the cluster.
	state [sha256.Size]byte
	// due is when the next round begins unless something starts it earlier.
	due time.Time
	// nodes are as they were last observed, and unasked is how many rounds ago that was.
	nodes   rotation.Nodes
	unasked int
}

// asksNodes reports whether it is time to observe the nodes again.
func (s *settled) asksNodes() bool { return s.unasked+1 >= nodesEvery }

// routine returns the last settled state if this round is a routine one, and else nil.
func (r *Reconciler) routine(uc *v1alpha1.UserCluster, o *observation) *settled {
	last := r.remember(uc).settled()
	if last == nil || r.now().Before(last.due) || stateOf(uc, o) != last.state {
		return nil
	}
	return last
}

// settle records the state of a cluster that has nothing left to do until a pause is over.
func (r *Reconciler) settle(uc *v1alpha1.UserCluster, o *observation, pause time.Duration) {
	is := &settled{state: stateOf(uc, o), due: r.now().Add(pause), nodes: o.Nodes}
	if !o.nodesSeen {
		is.unasked = o.routine.unasked + 1
	}
	r.remember(uc).setSettled(is)
}

// stateOf hashes the spec of a cluster, its keys, and what its adapter reports of the control plane.
func stateOf(uc *v1alpha1.UserCluster, o *observation) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%#v", struct {
		generation   int64
		annotations  map[string]string
		keyIDs       []string
		controlPlane controlplane.State
	}{uc.Generation, uc.Annotations, keyIDs(o.keys), o.controlPlane}))
}
