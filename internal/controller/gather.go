package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
)

// observation is everything that one round saw: the input of the planner, and further data for the status.
type observation struct {
	rotation.Observed
	// adapter is the control plane, and controlPlane what it reported.
	adapter      controlplane.Adapter
	keys         []keystore.KeyPair
	controlPlane controlplane.State
	// issued is when each API server issued the token with which it proved its signing key, by its own clock; zero if
	// it did not prove it in this round.
	issued []time.Time
	// nodes is zero in a round that did not observe them; nodesSeen distinguishes that from having none.
	nodes        nodes.State
	nodesSeen    bool
	legacyCount  v1alpha1.LegacyTokenStatus
	publications []publication
	// tokens describes the valid tokens, as last observed; nil if nobody needed it.
	tokens *tokensSeen
	// kubeconfig is nil in a round that did not read its Secret.
	kubeconfig *kubeconfig
	// routine is the last settled state, if this is a routine round; else nil.
	routine *settled
	// obstructed means that webhooks kept an API server from being proven.
	obstructed bool
	// former are destinations that the spec no longer names, but where keys may still be published.
	former []v1alpha1.PublicationStatus
}

// gather observes everything and changes nothing.
func (r *Reconciler) gather(ctx context.Context, uc *v1alpha1.UserCluster) (observation, error) {
	o := observation{Observed: rotation.Observed{
		Wanted: int(uc.Spec.KSASigningKey.Version), External: external(uc), Adopted: uc.Spec.Infrastructure.Adopted(),
	}}
	var err error
	if o.keys, err = r.Keys.List(ctx, keystore.ClusterOf(uc)); err != nil {
		return o, fmt.Errorf("listing the keys of %s: %w", uc.Name, err)
	}
	for _, k := range o.keys {
		o.Stored = append(o.Stored, k.Version)
	}
	r.rounds.wait(func() { err = r.observe(ctx, uc, &o) })
	if err != nil {
		return o, err
	}
	// The newest stored version is the one to refresh to, even if the spec is ahead of it.
	if n := len(o.Stored); n > 0 {
		o.legacyCount = uc.Status.KSASigningKey.LegacyTokens
		if seen, ok := r.remember(uc).legacyTokens(o.Stored[n-1]); ok {
			o.Legacy, o.legacyCount = seen.legacy, seen.count
		}
	}
	return o, nil
}

// observe observes the cluster: first its infrastructure, and then what that makes reachable.
func (r *Reconciler) observe(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) (err error) {
	if o.adapter, err = r.ControlPlane(uc); err != nil {
		return fmt.Errorf("opening the control plane of %s: %w", uc.Name, err)
	}
	if o.controlPlane, err = o.adapter.Observe(ctx); err != nil {
		return fmt.Errorf("observing the control plane of %s: %w", uc.Name, err)
	}
	o.Held = o.controlPlane.Held
	o.Completed = uc.Status.KSASigningKey.CompletedAt != nil
	o.ForeignMayGo = foreignMayGo(uc, o.keys)
	o.Presence, o.Bootstrap = o.controlPlane.Presence, o.controlPlane.Bootstrap
	o.BootstrapForeign = o.controlPlane.BootstrapForeign
	o.ControlPlaneWaiting, o.ControlPlaneBlocked = o.controlPlane.Waiting, o.controlPlane.Blocked
	o.Unled = o.controlPlane.Unled
	for _, m := range o.controlPlane.ControllerManagers {
		o.ControllerManagers = append(o.ControllerManagers, rotation.ControllerManager(m))
	}
	o.Servers = servers(o.controlPlane.Servers)
	for i, s := range o.Servers {
		o.Servers[i].WatchesBack = r.remember(uc).watchesBack(s, refreshingSince(uc), r.now())
	}
	o.routine = r.routine(uc, o)
	r.askOthers(ctx, uc, o)
	if len(o.Stored) > 0 && o.Presence == rotation.PresencePresent {
		r.gatherTokens(ctx, uc, o)
	}
	return nil
}

// askOthers queries, in parallel, everything that may not answer. Each query fills in its own part of the observation.
func (r *Reconciler) askOthers(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	nodesFor, outsideFor := nodesPatience, outsidePatience
	if !o.whole() {
		nodesFor, outsideFor = briefPatience, briefPatience
	}
	ask := func(patience time.Duration, about func(context.Context, *v1alpha1.UserCluster, *observation)) func() {
		return func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			about(ctx, uc, o)
		}
	}
	var wg sync.WaitGroup
	o.issued = make([]time.Time, len(o.Servers))
	obstructed := make([]bool, len(o.Servers))
	for i := range o.Servers {
		// An API server that is not ready answers nothing.
		if o.Servers[i].Ready {
			wg.Go(func() {
				var err error
				o.issued[i], err = r.proveOne(ctx, uc, o, &o.Servers[i])
				obstructed[i] = isObstructed(err)
			})
		}
	}
	wg.Go(func() { r.gatherKubeconfig(ctx, uc, o) })
	wg.Go(ask(nodesFor, r.gatherNodes))
	wg.Go(ask(outsideFor, r.gatherPublications))
	wg.Wait()
	o.obstructed = slices.Contains(obstructed, true)
	r.remember(uc).keepServers(o.Servers)
}

// whole reports whether every process of the control plane serves, as far as its adapter knows.
func (o *observation) whole() bool {
	return o.ControlPlaneWaiting == "" &&
		!slices.ContainsFunc(o.Servers, func(s rotation.Server) bool { return !s.Ready && !s.Leaving }) &&
		!slices.ContainsFunc(o.ControllerManagers, func(m rotation.ControllerManager) bool { return !m.Ready })
}

// servers returns API servers as their adapter reports them, before they are asked.
func servers(all []controlplane.Server) []rotation.Server {
	seen := make([]rotation.Server, len(all))
	for i, s := range all {
		seen[i] = rotation.Server{
			Name: s.Name, Leaving: s.Leaving, Configured: s.Configured, Running: s.Running, Ready: s.Ready, Waiting: s.Waiting,
		}
	}
	return seen
}

// proveOne asks one API server, and returns when it issued the token of its proof. If it could not be asked, s says
// why.
func (r *Reconciler) proveOne(
	ctx context.Context, uc *v1alpha1.UserCluster, o *observation, s *rotation.Server,
) (issued time.Time, err error) {
	cfg, err := o.adapter.Config(ctx, s.Name)
	if err != nil {
		s.Waiting = hint.Line(err)
		return time.Time{}, err
	}
	proof, err := r.Prove(ctx, controlplane.Question{
		Cluster: types.UID(uc.Identity()), Config: cfg, Keys: o.keys, External: s.Running.External, Settled: o.routine != nil,
	})
	if err != nil {
		s.Waiting = hint.Line(err)
		return time.Time{}, err
	}
	s.Accepts, s.Refuses, s.Signs, s.Foreign = proof.Accepts, proof.Refuses, proof.Signs, proof.Foreign
	if proof.Signs == 0 {
		s.SignsForeign = proof.SigningKeyID
	}
	if s.Running.External { // API servers with key files were restarted since they lost a key
		s.Forgets = r.remember(uc).forgets(s.Name, fleet.Only(o.keys, proof.Refuses), r.now())
	}
	return proof.IssuedAt, nil
}

// provenAt returns when API servers issued the tokens with which all that stay proved that they sign with the newest
// key version: the latest time; zero if not all did.
func (o *observation) provenAt() time.Time {
	var latest time.Time
	for i, s := range o.Servers {
		switch {
		case s.Leaving:
		case len(o.Stored) == 0 || s.Signs != o.Stored[len(o.Stored)-1] || o.issued[i].IsZero():
			return time.Time{}
		case o.issued[i].After(latest):
			latest = o.issued[i]
		}
	}
	return latest
}

// foreignMayGo returns the kids of the keys that API servers may stop accepting and that are no key versions: those
// that the user has released, and those of retired versions. Stored keys are not among them, whoever releases them.
func foreignMayGo(uc *v1alpha1.UserCluster, stored []keystore.KeyPair) []string {
	kids := uc.ReleasedForeignKeys()
	if s := uc.Status.Infrastructure.Adopted(); s != nil {
		for _, k := range s.Retired {
			kids = append(kids, k.KeyID)
		}
	}
	return slices.DeleteFunc(kids, func(kid string) bool {
		return slices.ContainsFunc(stored, func(k keystore.KeyPair) bool { return k.KeyID == kid })
	})
}

// external reports whether the spec wants API servers to get their keys from a signer.
func external(uc *v1alpha1.UserCluster) bool {
	return uc.Spec.KeySource() == v1alpha1.KeySourceExternal
}
