package kubeadm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
)

// driver does what a controller does of which only the control plane matters.
type driver struct {
	t     *testing.T
	uc    *v1alpha1.UserCluster
	store keystore.Store
	// open opens the cluster, as a controller does in each round, and prove asks one of its API servers.
	open  func() *Cluster
	prove func(a *Cluster, server string, keys []keystore.KeyPair) (controlplane.Proof, error)
	// slow has pods with old tokens stay, and legacy is how far the legacy tokens are, of which there are none.
	slow   bool
	legacy rotation.Legacy
	// log is what the planner decided, each once.
	log []string
}

func (w *driver) keys() []keystore.KeyPair {
	w.t.Helper()
	keys, err := w.store.List(w.t.Context(), w.open().key())
	if err != nil {
		w.t.Fatal(err)
	}
	return keys
}

// round does one round.
func (w *driver) round() rotation.Decision {
	w.t.Helper()
	ctx, a, keys := w.t.Context(), w.open(), w.keys()
	state, err := a.Observe(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	d := rotation.Plan(w.observed(a, state, keys), time.Now())
	w.note(d)
	if err := w.act(ctx, a, d, keys); err != nil {
		_, d.Blocked = errors.AsType[*controlplane.BlockedError](err)
		d.Waiting = err.Error()
	}
	return d
}

func (w *driver) observed(a *Cluster, state controlplane.State, keys []keystore.KeyPair) rotation.Observed {
	o := rotation.Observed{
		Wanted: int(w.uc.Spec.KSASigningKey.Version), Adopted: true,
		External: w.uc.Spec.KeySource() == v1alpha1.KeySourceExternal,
		Presence: state.Presence, ControlPlaneWaiting: state.Waiting, ControlPlaneBlocked: state.Blocked, Held: state.Held,
		Unled: state.Unled, Nodes: rotation.Nodes{Converged: true}, ForeignMayGo: w.uc.ReleasedForeignKeys(),
	}
	if in := w.uc.Status.Infrastructure.Kubeadm; in != nil {
		for _, k := range in.Retired {
			o.ForeignMayGo = append(o.ForeignMayGo, k.KeyID)
		}
	}
	for _, k := range keys {
		o.Stored = append(o.Stored, k.Version)
	}
	o.Legacy = w.legacy
	if n := len(keys); w.slow && n > 0 {
		o.Nodes.Oldest = keys[0].Version
	}
	for _, m := range state.ControllerManagers {
		o.ControllerManagers = append(o.ControllerManagers, rotation.ControllerManager(m))
	}
	for _, s := range state.Servers {
		seen := rotation.Server{
			Name: s.Name, Leaving: s.Leaving, Configured: s.Configured, Running: s.Running, Ready: s.Ready, Waiting: s.Waiting,
		}
		if s.Ready {
			w.ask(a, &seen, keys)
		}
		o.Servers = append(o.Servers, seen)
	}
	return o
}

func (w *driver) ask(a *Cluster, s *rotation.Server, keys []keystore.KeyPair) {
	p, err := w.prove(a, s.Name, keys)
	if err != nil {
		s.Waiting = err.Error()
		return
	}
	s.Accepts, s.Refuses, s.Signs, s.Foreign = p.Accepts, p.Refuses, p.Signs, p.Foreign
	if p.Signs == 0 {
		s.SignsForeign = p.SigningKeyID
	}
}

func (w *driver) act(ctx context.Context, a *Cluster, d rotation.Decision, keys []keystore.KeyPair) error {
	switch d.Action.Kind {
	case rotation.AdoptKey:
		signer, err := a.SigningKey(ctx, d.Action.KeyID)
		if err != nil || signer == nil {
			return err
		}
		k, err := keystore.New(1, signer)
		return errors.Join(err, w.store.Create(ctx, a.key(), k))
	case rotation.GenerateKey:
		k, err := keystore.Generate(rand.Reader, d.Action.Version, jwks.ES256)
		return errors.Join(err, w.store.Create(ctx, a.key(), k))
	case rotation.DeleteKey:
		w.retire(d.Action.Version, keys)
		return w.store.Delete(ctx, a.key(), d.Action.Version)
	case rotation.RefreshTokens:
		if w.legacy.Proven = d.Action.Version; !w.slow {
			w.legacy.Final = d.Action.Version
		}
		return nil
	case rotation.ConvergeControlPlane:
		return a.Converge(ctx, d.Action.Target, keys)
	case rotation.Wait, rotation.ConvergeNodes:
		return nil
	}
	return fmt.Errorf("unexpected action %s", d.Action.Kind)
}

// retire notes the kid of a version in the status.
func (w *driver) retire(version int, keys []keystore.KeyPair) {
	in := &v1alpha1.KubeadmInfrastructureStatus{}
	for _, k := range keys {
		if k.Version == version {
			in.Retired = append(in.Retired, v1alpha1.RetiredKey{Version: int32(k.Version), KeyID: k.KeyID})
		}
	}
	w.uc.Status.Infrastructure.Kubeadm = in
}

func (w *driver) note(d rotation.Decision) {
	text := fmt.Sprintf("%s %s %d %+v %s", d.Step, d.Action.Kind, d.Action.Version, d.Action.Target, d.Waiting)
	if len(w.log) == 0 || w.log[len(w.log)-1] != text {
		w.log = append(w.log, text)
	}
}
