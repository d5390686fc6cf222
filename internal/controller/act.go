package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// act does the one external write of a round: the planner has decided it, and nothing else is written.
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
		// It is on no disk of the control plane any more.
		return r.Keys.Delete(ctx, clusterOf(uc), a.Version)
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

// needed are the key versions that a control plane is to have, and those that its processes run or start with. It is
// handed no other, and removes what it has of them.
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
		if seen.nodesAre(version) {
			legacy.Final = legacy.Proven
		}
		legacy.Proven = max(legacy.Proven, seen.Legacy.Proven) // it stands while the last walk is under way
		r.remember(uc).setLegacyTokens(legacyResult{version: version, legacy: legacy, count: count})
		seen.legacyCount = count
		return nil
	}
	return fmt.Errorf("key version %d of %s is not stored", version, uc.Name)
}
