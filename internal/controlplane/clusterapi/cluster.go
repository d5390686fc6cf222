package clusterapi

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// Cluster is the control plane of one cluster of Cluster API: that of package kubeadm, and its bootstrap material. It
// implements controlplane.Adapter and controlplane.Adopter.
type Cluster struct {
	kubeadmCluster
	uc         *v1alpha1.UserCluster
	keys       keystore.Store
	management management
	client     client.Client
	roller     *Roller
	memory     *memory
}

// kubeadmCluster is what of a kubeadm.Cluster is of use.
type kubeadmCluster interface {
	controlplane.Adapter
	controlplane.Adopter
	controlplane.Leaver
}

var (
	_ kubeadmCluster       = (*kubeadm.Cluster)(nil)
	_ controlplane.Adapter = (*Cluster)(nil)
	_ controlplane.Adopter = (*Cluster)(nil)
	_ controlplane.Leaver  = (*Cluster)(nil)
)

// Observe implements controlplane.Adapter. A cluster that is paused is not observed, so that nothing is planned for it.
func (c *Cluster) Observe(ctx context.Context) (controlplane.State, error) {
	read, o, err := c.management.read(ctx)
	if err != nil {
		return controlplane.State{}, err
	}
	c.memory.saw(o.GetUID())
	waiting, err := c.management.waitingFor(ctx, read, o)
	if err != nil || waiting != "" {
		return controlplane.State{Waiting: waiting}, err
	}
	if c.uc.Status.KSASigningKey.Step == "" && c.uc.Spec.NodeRefresh() == v1alpha1.NodeRefreshReplace {
		// No rotation is to begin that cannot replace the machines. One that has begun goes on as far as it can.
		if err := c.roller.mayRoll(ctx); err != nil {
			return controlplane.State{}, err
		}
	}
	s, err := c.kubeadmCluster.Observe(ctx)
	if err != nil {
		return s, err
	}
	m, err := c.material(ctx)
	if err != nil {
		return controlplane.State{}, err
	}
	s.Bootstrap, s.BootstrapForeign = c.sourced(m.keys), m.foreignKeys()
	s.Object = read.Spec.ControlPlaneRef.Name
	s.LeftoverSecrets, err = c.leftovers(ctx)
	return s, err
}

// leftovers returns the Secrets with bootstrap data of machines that are older than the newest key.
func (c *Cluster) leftovers(ctx context.Context) (secrets []string, err error) {
	since := renewed(c.uc.Status.KSASigningKey.Rotations)
	if since.IsZero() {
		return nil, nil
	}
	machines, err := c.management.machines(ctx)
	for _, m := range machines {
		if m.data != "" && m.created.Before(since) {
			secrets = append(secrets, c.management.key(m.data).String())
		}
	}
	return secrets, err
}

// renewed returns when the last rotation that has ended came to the step after Switch: machines that were made later
// start with its key alone. It is zero if there was none, or nobody knows.
func renewed(rotations []v1alpha1.RotationStatus) (since time.Time) {
	for _, r := range rotations {
		for _, s := range r.Steps {
			if r.CompletedAt != nil && s.Name == string(rotation.StepRefresh) {
				since = s.StartedAt.Time
			}
		}
	}
	return since
}

// Converge implements controlplane.Adapter.
func (c *Cluster) Converge(ctx context.Context, t controlplane.Target, keys []keystore.KeyPair) error {
	if err := c.writable(ctx); err != nil {
		return err
	}
	m, err := c.material(ctx)
	if err != nil {
		return err
	}
	if m.keys.Stage() > t.Keys.Stage() {
		return fmt.Errorf("the keys in Secret %s: %w", c.management.key(c.management.cluster+"-sa"), controlplane.ErrStale)
	}
	if t.Bootstrap {
		err = c.give(ctx, m, t, keys)
	}
	if c.uc.Spec.Infrastructure.RollsOut() {
		if err != nil || t.Bootstrap {
			return err
		}
		return c.replace(ctx, m, t)
	}
	// An API server that refuses tokens in use is brought up even if the material could not be written.
	return errors.Join(err, c.kubeadmCluster.Converge(ctx, t, keys))
}

// writable returns why nothing may be written now; nil if it may.
func (c *Cluster) writable(ctx context.Context) error {
	waiting, err := c.management.waiting(ctx)
	if err == nil && waiting != "" {
		err = errors.New("waiting for " + waiting)
	}
	return err
}

// SigningKey implements controlplane.Adopter. The agent is asked only if Cluster API has another key.
func (c *Cluster) SigningKey(ctx context.Context, keyID string) (crypto.Signer, error) {
	if err := c.writable(ctx); err != nil {
		return nil, err
	}
	m, err := c.material(ctx)
	if err != nil {
		return nil, err
	}
	if m.signer != nil && m.keyID == keyID {
		return m.signer, nil
	}
	if c.uc.Spec.Infrastructure.RollsOut() {
		return nil, errNoAgent(c.management.key(c.management.cluster+"-sa"), keyID)
	}
	return c.kubeadmCluster.SigningKey(ctx, keyID)
}

// Delete implements controlplane.Adapter. The material has the keys with which the cluster goes on, or those of the
// step after them, which every API server accepts.
func (c *Cluster) Delete(ctx context.Context) (gone bool, err error) {
	if err := c.writable(ctx); isGone(err) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if gone, err = c.release(ctx); !gone || err != nil {
		return false, err
	}
	return c.letGo(ctx)
}

// Leave implements controlplane.Leaver.
func (c *Cluster) Leave(ctx context.Context) (err error) {
	if !c.uc.Spec.Infrastructure.RollsOut() {
		err = c.kubeadmCluster.Leave(ctx)
	}
	_, errMarks := c.letGo(ctx)
	return errors.Join(err, errMarks)
}
