package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/controlplane"
)

// replace moves a control plane towards a target with new machines, which start with the keys of the material. Cluster
// API chooses which machine it replaces, one at a time. A crash anywhere is harmless: the next call finds what is
// missing.
func (c *Cluster) replace(ctx context.Context, m material, t controlplane.Target) error {
	s, err := c.kubeadmCluster.Observe(ctx)
	if err != nil {
		return err
	}
	for _, server := range s.Servers {
		if !server.Leaving && server.Configured.Stage() > t.Keys.Stage() {
			return fmt.Errorf("API server %s: %w", server.Name, controlplane.ErrStale)
		}
	}
	i := slices.IndexFunc(s.Servers, func(server controlplane.Server) bool { return server.Name == t.Next })
	// What an API server that does not serve has is unknown: perhaps the keys of the target already.
	if i < 0 || !s.Servers[i].Ready || s.Servers[i].Running.Equal(t.Keys) && !common(s.Servers[i].Foreign, t.DropForeign) {
		return nil
	}
	if m.secret == nil {
		return controlplane.Blocked(fmt.Errorf("there is no Secret %s, with which control-plane machines start: "+
			"restore it", c.management.key(c.management.cluster+"-sa")))
	}
	if m.keys.Stage() != t.Keys.Stage() || common(m.foreignKeys(), t.DropForeign) {
		return nil // a new machine would start with other keys
	}
	var others []string
	for _, server := range s.Servers {
		stale := !server.Running.Equal(t.Keys) || common(server.Foreign, t.DropForeign)
		if server.Ready && !server.Leaving && stale {
			others = append(others, server.Name)
		}
	}
	return c.roller.replaceMachine(ctx, t.Next, others...)
}

// replaceMachine has Cluster API replace the control-plane machine of a node, unless that was requested before, and
// those of other nodes with it. Machines that are younger than all of these have what they are to have, and stay.
func (r *Roller) replaceMachine(ctx context.Context, node string, others ...string) error {
	machines, err := r.machines(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(machines, func(m machine) bool { return m.node == node })
	if i < 0 {
		return fmt.Errorf("node %s has no Machine yet that could be replaced", node)
	}
	controlPlane, err := r.controlPlane(ctx)
	if err != nil || machines[i].leaving {
		return err
	}
	created := machines[i].created
	if !created.Before(controlPlane.after) {
		youngest := created
		for _, m := range machines {
			if slices.Contains(others, m.node) {
				youngest = latest(youngest, m.created)
			}
		}
		return r.request(ctx, []machineOwner{controlPlane}, youngest.Add(time.Second))
	}
	if _, words := controlPlane.held(created, r.now()); words != "" {
		return controlplane.Blocked(errors.New("waiting for " + words))
	}
	return nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// release takes what Keyturn runs off the machines. With method Rollout that is nothing.
func (c *Cluster) release(ctx context.Context) (gone bool, err error) {
	if c.uc.Spec.Infrastructure.RollsOut() {
		return true, nil
	}
	return c.kubeadmCluster.Delete(ctx)
}

// errNoAgent is why the signing key of a cluster cannot be read from its machines.
func errNoAgent(secret client.ObjectKey, keyID string) error {
	return controlplane.Blocked(fmt.Errorf("the private key %s, which the API servers sign with, is not in Secret %s, "+
		"and with method Rollout no agent reads it from a machine: write that key pair into the Secret", keyID, secret))
}
