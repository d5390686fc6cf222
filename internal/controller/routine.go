package controller

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/rotation"
)

// nodesEvery is in how many routine rounds the nodes are asked for once.
const nodesEvery = 3

// settled is what a cluster was like when a round last found nothing to do. It makes the next round a routine one if
// nothing but time brings that about, and the spec, the keys and the control plane are as they were.
//
// A routine round asks the cluster for less. No decision but that the cluster is still settled rests on it: if it finds
// anything else, it ends without a write, and a round that asks for everything follows at once.
type settled struct {
	// state tells what the cluster was like from everything else that it could be.
	state [sha256.Size]byte
	// due is when the next round begins unless somebody brings it forward.
	due time.Time
	// nodes are as they were last seen, and unasked is how many rounds have not asked for them since.
	nodes   rotation.Nodes
	unasked int
}

// asksNodes reports whether it is time to see the nodes again.
func (s *settled) asksNodes() bool { return s.unasked+1 >= nodesEvery }

// routine returns what the cluster was like if this round is a routine one, and else nil.
func (r *Reconciler) routine(uc *v1alpha1.UserCluster, o *observation) *settled {
	last := r.remember(uc).settled()
	if last == nil || r.now().Before(last.due) || stateOf(uc, o) != last.state {
		return nil
	}
	return last
}

// settle remembers what a cluster is like that has nothing left to do until a pause is over.
func (r *Reconciler) settle(uc *v1alpha1.UserCluster, o *observation, pause time.Duration) {
	is := &settled{state: stateOf(uc, o), due: r.now().Add(pause), nodes: o.Nodes}
	if !o.nodesSeen {
		is.unasked = o.routine.unasked + 1
	}
	r.remember(uc).setSettled(is)
}

// stateOf sums up what a cluster is to be like, its keys, and what its adapter knows of the control plane.
func stateOf(uc *v1alpha1.UserCluster, o *observation) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%#v", struct {
		generation   int64
		annotations  map[string]string
		keyIDs       []string
		controlPlane controlplane.State
	}{uc.Generation, uc.Annotations, keyIDs(o.keys), o.controlPlane}))
}
