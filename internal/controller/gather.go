package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
)

// observation is all that one round saw: what the planner needs, and what the status tells besides.
type observation struct {
	rotation.Observed
	keys         []keystore.KeyPair
	controlPlane controlplane.State
	nodes        nodes.State
	legacyCount  v1alpha1.LegacyTokenStatus
	publications []publication
	// former are the destinations that the spec does not name any more, and where keys may still be published.
	former []v1alpha1.PublicationStatus
}

// gather observes everything and changes nothing.
func (r *Reconciler) gather(ctx context.Context, uc *v1alpha1.UserCluster) (observation, error) {
	o := observation{Observed: rotation.Observed{Wanted: int(uc.Spec.KSASigningKey.Version), External: external(uc)}}
	var err error
	if o.keys, err = r.Keys.List(ctx, clusterOf(uc)); err != nil {
		return o, fmt.Errorf("listing the keys of %s: %w", uc.Name, err)
	}
	for _, k := range o.keys {
		o.Stored = append(o.Stored, k.Version)
	}
	if o.controlPlane, err = r.ControlPlane.Observe(ctx, uc); err != nil {
		return o, fmt.Errorf("observing the control plane of %s: %w", uc.Name, err)
	}
	o.ControlPlaneWaiting = o.controlPlane.Waiting
	o.Servers = r.proveAll(ctx, uc, o.controlPlane.Servers, o.keys)
	for _, m := range o.controlPlane.ControllerManagers {
		o.ControllerManagers = append(o.ControllerManagers, rotation.ControllerManager(m))
	}
	r.gatherNodes(ctx, uc, &o)
	r.gatherPublications(ctx, uc, &o)
	// The newest stored version is the one that is refreshed to, also while the spec is ahead of it.
	if n := len(o.Stored); n > 0 {
		o.Legacy, o.legacyCount = r.legacy.get(uc, o.Stored[n-1])
	}
	return o, nil
}

// proveAll asks every API server that serves, each by itself and all at once.
func (r *Reconciler) proveAll(ctx context.Context, uc *v1alpha1.UserCluster, servers []controlplane.Server, keys []keystore.KeyPair) []rotation.Server {
	seen := make([]rotation.Server, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		seen[i] = rotation.Server{
			Name: s.Name, Configured: s.Configured, Running: s.Running, Ready: s.Ready, Waiting: s.Waiting,
		}
		if s.Ready {
			wg.Go(func() { r.proveOne(ctx, uc, &seen[i], keys) })
		}
	}
	wg.Wait()
	return seen
}

func (r *Reconciler) proveOne(ctx context.Context, uc *v1alpha1.UserCluster, s *rotation.Server, keys []keystore.KeyPair) {
	cfg, err := r.ControlPlane.Config(ctx, uc, s.Name)
	if err != nil {
		s.Waiting = err.Error()
		return
	}
	prove := r.Prove
	if prove == nil {
		prove = controlplane.Prove
	}
	proof, err := prove(ctx, cfg, keys, s.Running.External)
	if err != nil {
		s.Waiting = err.Error()
		return
	}
	s.Accepts, s.Refuses, s.Signs = proof.Accepts, proof.Refuses, proof.Signs
	if s.Running.External { // the others have been started since they lost a key
		s.Forgets = r.refusals.forgets(uc, s.Name, only(keys, proof.Refuses), r.now())
	}
}

// external says that the spec wants API servers to get their keys from a signer.
func external(uc *v1alpha1.UserCluster) bool {
	return uc.Spec.KSASigningKey.Source == v1alpha1.KeySourceExternal
}

// gatherNodes observes the nodes once there is an API server that could know them.
func (r *Reconciler) gatherNodes(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	if !slices.ContainsFunc(o.Servers, func(s rotation.Server) bool { return s.Ready }) {
		o.Nodes.Waiting = "an API server to be ready"
		return
	}
	var err error
	if o.nodes, err = r.Nodes.Observe(ctx, uc); err != nil {
		// An API server that goes away in this very moment is no failure of the round.
		o.Nodes.Waiting = fmt.Sprintf("the nodes to be observable: %v", err)
		return
	}
	o.Nodes = rotation.Nodes{
		Converged: poolsConverged(uc, o.nodes.Nodes), Waiting: o.nodes.Waiting, Blocked: o.nodes.Blocked,
	}
	for _, n := range o.nodes.Nodes {
		made := max(n.KeyVersion, 1) // a node that does not say its version may be from any time
		if o.Nodes.Oldest == 0 || made < o.Nodes.Oldest {
			o.Nodes.Oldest = made
		}
	}
}

// poolsConverged says that each pool has exactly its replicas, all ready, and that no node is of another pool.
func poolsConverged(uc *v1alpha1.UserCluster, all []nodes.Node) bool {
	ready := map[string]int{}
	for _, n := range all {
		if !n.Ready || n.Deleting {
			return false
		}
		ready[n.Pool]++
	}
	for _, p := range uc.Spec.NodePools {
		if ready[p.Name] != int(p.Replicas) {
			return false
		}
		delete(ready, p.Name)
	}
	return len(ready) == 0
}

func clusterOf(uc *v1alpha1.UserCluster) keystore.Cluster {
	return keystore.Cluster{Namespace: uc.Namespace, Name: uc.Name}
}

// legacyMemory remembers what the last walks over legacy tokens showed. After a restart it is empty, and the
// planner has the tokens walked again.
type legacyMemory struct {
	mu sync.Mutex
	of map[types.UID]legacyResult
}

type legacyResult struct {
	version int
	legacy  rotation.Legacy
	count   v1alpha1.LegacyTokenStatus
}

func (m *legacyMemory) get(uc *v1alpha1.UserCluster, version int) (rotation.Legacy, v1alpha1.LegacyTokenStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen, ok := m.of[uc.UID]
	if !ok || seen.version != version {
		return rotation.Legacy{}, uc.Status.KSASigningKey.LegacyTokens
	}
	return seen.legacy, seen.count
}

func (m *legacyMemory) set(uc *v1alpha1.UserCluster, seen legacyResult) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[types.UID]legacyResult{}
	}
	m.of[uc.UID] = seen
}

func (m *legacyMemory) forget(uc *v1alpha1.UserCluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, uc.UID)
}
