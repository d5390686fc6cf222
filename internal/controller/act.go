package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// act does the one external write of a round.
func (r *Reconciler) act(ctx context.Context, uc *v1alpha1.UserCluster, d rotation.Decision, seen *observation) error {
	switch a := d.Action; a.Kind {
	case rotation.GenerateKey:
		return r.generate(ctx, uc, a.Version)
	case rotation.ConvergeControlPlane:
		return r.ControlPlane.Converge(ctx, uc, a.Target, seen.keys)
	case rotation.PublishKeys:
		return r.publish(ctx, uc, seen.keys, a.Publish, seen.publications)
	case rotation.RefreshTokens:
		return r.refresh(ctx, uc, a.Version, seen)
	case rotation.ConvergeNodes:
		return r.Nodes.Converge(ctx, uc, a.Version)
	case rotation.DeleteKey:
		return r.deleteKey(ctx, uc, a.Version, seen.keys)
	case rotation.Wait:
		if d.Settled {
			return r.settle(ctx, uc, seen.keys)
		}
		return nil
	default:
		return fmt.Errorf("unknown action %q", a.Kind)
	}
}

// deleteKey deletes a key version that nothing uses any more: first from every disk, then from the store, so that a
// key that is stored nowhere is nowhere. If we crash in between, the next plan comes here again.
func (r *Reconciler) deleteKey(ctx context.Context, uc *v1alpha1.UserCluster, version int, keys []keystore.KeyPair) error {
	rest := slices.DeleteFunc(slices.Clone(keys), func(k keystore.KeyPair) bool { return k.Version == version })
	if err := r.keep(ctx, uc, rest); err != nil {
		return fmt.Errorf("removing key version %d from the control plane of %s: %w", version, uc.Name, err)
	}
	return r.Keys.Delete(ctx, clusterOf(uc), version)
}

// settle keeps what outlives rotations: the control plane, and the administrator's kubeconfig.
func (r *Reconciler) settle(ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair) error {
	if err := r.keep(ctx, uc, keys); err != nil {
		return err
	}
	return r.ensureKubeconfig(ctx, uc)
}

// keep converges a control plane that is on the wanted key version alone: what died is started again, and keys that
// are left over on disks are removed.
func (r *Reconciler) keep(ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair) error {
	only := keys[len(keys)-1].Version
	wanted := rotation.Keys{Verify: []int{only}, Sign: only, External: external(uc)}
	target := rotation.Target{Keys: wanted, ControllerManagerSign: only}
	return r.ControlPlane.Converge(ctx, uc, target, keys)
}

func (r *Reconciler) generate(ctx context.Context, uc *v1alpha1.UserCluster, version int) error {
	k, err := keystore.Generate(rand.Reader, version, string(uc.Spec.KSASigningKey.Algorithm))
	if err != nil {
		return fmt.Errorf("generating key version %d: %w", version, err)
	}
	err = r.Keys.Create(ctx, clusterOf(uc), k)
	if errors.Is(err, keystore.ErrExists) || errors.Is(err, keystore.ErrAmbiguous) {
		return nil // the next round reads what is stored; this key pair was told to nobody
	}
	return err
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
		r.legacy.set(uc, legacyResult{version: version, legacy: legacy, count: count})
		seen.legacyCount = count
		return nil
	}
	return fmt.Errorf("key version %d of %s is not stored", version, uc.Name)
}

func only(keys []keystore.KeyPair, versions []int) []keystore.KeyPair {
	return slices.DeleteFunc(slices.Clone(keys), func(k keystore.KeyPair) bool {
		return !slices.Contains(versions, k.Version)
	})
}
