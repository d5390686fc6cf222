package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// act does the one external write of a round, which the planner decided.
func (r *Reconciler) act(
	ctx context.Context, uc *v1alpha1.UserCluster, d rotation.Decision, seen *observation,
) (err error) {
	switch a := d.Action; a.Kind {
	case rotation.Wait:
		return nil
	case rotation.GenerateKey:
		return r.generate(ctx, uc, a.Version)
	case rotation.WriteKubeconfig:
		return r.writeKubeconfig(ctx, seen.kubeconfig)
	case rotation.DeleteKey:
		// It is no longer on any disk of the control plane.
		return r.Keys.Delete(ctx, keystore.ClusterOf(uc), a.Version)
	default:
		r.rounds.wait(func() { err = r.actElsewhere(ctx, uc, a, seen) })
		return err
	}
}

// actElsewhere does a write that does not go to the admin cluster.
func (r *Reconciler) actElsewhere(
	ctx context.Context, uc *v1alpha1.UserCluster, a rotation.Action, seen *observation,
) error {
	switch a.Kind {
	case rotation.AdoptKey:
		return r.adopt(ctx, uc, a, seen)
	case rotation.ConvergeControlPlane:
		return seen.adapter.Converge(ctx, a.Target, fleet.Only(seen.keys, needed(a.Target, seen.Observed)))
	case rotation.PublishKeys:
		return r.publish(ctx, uc, seen.keys, a.Publish, seen.publications)
	case rotation.RefreshTokens:
		return r.refresh(ctx, uc, a.Version, seen)
	case rotation.ConvergeNodes:
		ctx, cancel := context.WithTimeout(ctx, nodesPatience)
		defer cancel()
		return r.convergeNodes(ctx, uc, seen)
	default:
		return fmt.Errorf("unknown action %q", a.Kind)
	}
}

// needed returns the key versions that a control plane should have, and those that its processes run or start with. The
// adapter gets no others, and removes those that it has.
func needed(target rotation.Target, seen rotation.Observed) []int {
	versions := append(slices.Clone(target.Keys.Verify), target.ControllerManagerSign)
	for _, s := range seen.Servers {
		versions = slices.Concat(versions, s.Configured.Verify, s.Running.Verify)
	}
	for _, m := range seen.ControllerManagers {
		versions = append(versions, m.Configured, m.Running)
	}
	return versions
}

func (r *Reconciler) generate(ctx context.Context, uc *v1alpha1.UserCluster, version int) error {
	k, err := keystore.Generate(rand.Reader, version, string(uc.Spec.KSASigningKey.Algorithm))
	if err != nil {
		return fmt.Errorf("generating key version %d: %w", version, err)
	}
	return r.storeKey(ctx, uc, k)
}

// storeKey stores a key version. The next round reads what is stored, since nobody has used this key pair yet.
func (r *Reconciler) storeKey(ctx context.Context, uc *v1alpha1.UserCluster, k keystore.KeyPair) error {
	err := r.Keys.Create(ctx, keystore.ClusterOf(uc), k)
	if errors.Is(err, keystore.ErrExists) || errors.Is(err, keystore.ErrAmbiguous) {
		return nil
	}
	return err
}

// adopt stores the key that the API servers of an adopted cluster sign with. It takes some rounds until the
// infrastructure provides it.
func (r *Reconciler) adopt(ctx context.Context, uc *v1alpha1.UserCluster, a rotation.Action, seen *observation) error {
	adopter, ok := seen.adapter.(controlplane.Adopter)
	if !ok {
		return fmt.Errorf("adopting key %s of %s: its infrastructure adopts no clusters", a.KeyID, uc.Name)
	}
	signer, err := adopter.SigningKey(ctx, a.KeyID)
	if err != nil {
		return fmt.Errorf("adopting key %s of %s: %w", a.KeyID, uc.Name, err)
	}
	if signer == nil {
		return nil
	}
	k, err := keystore.New(a.Version, signer)
	if err == nil && k.KeyID != a.KeyID {
		err = fmt.Errorf("its private key has the kid %s", k.KeyID)
	}
	if err != nil {
		return controlplane.Blocked(fmt.Errorf("adopting key %s of %s: %w", a.KeyID, uc.Name, err))
	}
	return r.storeKey(ctx, uc, k)
}

func (r *Reconciler) refresh(ctx context.Context, uc *v1alpha1.UserCluster, version int, seen *observation) error {
	for _, k := range seen.keys {
		if k.Version != version {
			continue
		}
		legacy, count, err := r.Tokens.Refresh(ctx, uc, k)
		if err != nil {
			return fmt.Errorf("refreshing the legacy tokens of %s: %w", uc.Name, err)
		}
		if seen.nodesAre(version) {
			legacy.Final = legacy.Proven
		}
		legacy.Proven = max(legacy.Proven, seen.Legacy.Proven) // it stays valid during the last walk
		r.remember(uc).setLegacyTokens(legacyResult{version: version, legacy: legacy, count: count})
		seen.legacyCount = count
		return nil
	}
	return fmt.Errorf("key version %d of %s is not stored", version, uc.Name)
}
