package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
)

// gatherNodes observes the nodes once there is an API server that could know them.
func (r *Reconciler) gatherNodes(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	// o.Servers are written concurrently.
	if !slices.ContainsFunc(o.controlPlane.Servers, func(s controlplane.Server) bool { return s.Ready }) {
		o.Nodes.Waiting = "an API server to be ready"
		return
	}
	if o.routine != nil && !o.routine.asksNodes() {
		o.Nodes = o.routine.nodes
		return
	}
	var err error
	if o.nodes, err = r.observeNodes(ctx, uc, o.keys); err != nil {
		// An API server that goes away at this moment is not a failure of the round.
		o.Nodes.Waiting = fmt.Sprintf("the nodes to be observable: %v", err)
		return
	}
	o.nodesSeen = true
	o.Nodes = rotation.Nodes{
		Converged: o.nodes.Converged, Oldest: o.nodes.Oldest, Waiting: o.nodes.Waiting, Blocked: o.nodes.Blocked,
	}
}

// nodesAre reports whether all nodes are as desired, and of a key version.
func (o *observation) nodesAre(version int) bool {
	return o.nodesSeen && o.Nodes.Converged && (o.Nodes.Oldest == 0 || o.Nodes.Oldest >= version)
}

func (r *Reconciler) observeNodes(
	ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair,
) (nodes.State, error) {
	adapter, err := r.Nodes(uc)
	if err != nil {
		return nodes.State{}, err
	}
	asked := nodeKeys(keys)
	asked.Named = uc.Status.KSASigningKey.OldTokens != nil
	return adapter.Observe(ctx, asked)
}

// convergeNodes moves the nodes towards the newest observed key version, which every API server signs with.
func (r *Reconciler) convergeNodes(ctx context.Context, uc *v1alpha1.UserCluster, seen *observation) error {
	adapter, err := r.Nodes(uc)
	if err != nil {
		return err
	}
	keys := nodeKeys(seen.keys)
	keys.ProvenAt, keys.Named = seen.provenAt(), uc.Status.KSASigningKey.OldTokens != nil
	return adapter.Converge(ctx, keys)
}

func (r *Reconciler) deleteNodes(ctx context.Context, uc *v1alpha1.UserCluster) (gone bool, err error) {
	adapter, err := r.Nodes(uc)
	if err != nil {
		return false, err
	}
	return adapter.Delete(ctx)
}

// nodeKeys converts the stored key versions, which are in ascending order, for package nodes.
func nodeKeys(stored []keystore.KeyPair) nodes.Keys {
	var keys nodes.Keys
	for _, k := range stored {
		keys = nodes.Keys{Next: k.Version, KeyID: k.KeyID, Old: keys.Next}
	}
	return keys
}
