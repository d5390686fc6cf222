package kubeadm

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/rotation"
)

// Delete implements controlplane.Adapter. The cluster goes on with the keys that it has, from files: API servers with
// a signer are converted, then the agents forget the cluster, and then they go. Only the annotations of the manifests
// stay, since to remove them would restart what they are on.
func (c *Cluster) Delete(ctx context.Context) (gone bool, err error) {
	keys, err := c.store.List(ctx, c.key())
	if err != nil {
		return false, err
	}
	err = c.reach(ctx)
	if _, blocked := errors.AsType[*controlplane.BlockedError](err); blocked && len(keys) == 0 {
		return true, nil // it was never adopted, and cannot be
	}
	if err != nil {
		return false, err
	}
	if len(keys) > 0 && !c.isReleased() {
		released, err := c.release(ctx)
		if err != nil || !released {
			return false, err
		}
		c.setReleased()
	}
	return c.agents.remove(ctx)
}

func (c *Cluster) isReleased() bool {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	return c.memory.released
}

func (c *Cluster) setReleased() {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	c.memory.released = true
}

// release has every node read its keys from files, settles what is under way, and has the agents forget the cluster.
func (c *Cluster) release(ctx context.Context) (released bool, err error) {
	v, err := c.look(ctx)
	if err != nil {
		return false, err
	}
	nodes := v.staying()
	if missing, err := c.ensureAgents(ctx, v, nodes); err != nil || missing {
		return false, err
	}
	to := change{Target: v.released(), keys: v.keys}
	changing, err := to.toRelease(nodes, c.uc.Spec.Infrastructure)
	if err != nil {
		return false, err
	}
	if changing && !to.Keys.IsZero() {
		return false, c.step(ctx, v, to)
	}
	for _, n := range nodes {
		r, err := c.agents.apply(ctx, *n.pod, c.order(v, n, agent.Release))
		if err == nil && r.Answer == agent.Waiting {
			return false, nil
		}
		if err == nil && r.Answer != agent.Done {
			err = fmt.Errorf("node %s: %s", n.Node, r.Message)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// toRelease reports whether a node has other keys than it is released with, and picks the one that may be changed now.
func (to *change) toRelease(nodes []*node, of v1alpha1.Infrastructure) (changing bool, err error) {
	for _, n := range nodes {
		if n.untouched(of) {
			continue
		}
		if !n.ready && !n.pending() {
			return false, fmt.Errorf("API server on node %s: %s", n.Node, n.waiting)
		}
		if n.pending() || !n.configured.Equal(to.Keys) || !n.changed() {
			if to.Next == "" && !n.pending() {
				to.Next = n.Node
			}
			changing = true
		}
	}
	return changing, nil
}

// untouched reports whether nothing of Keyturn is on a node whose keys the agent cannot change. They stay as they are.
func (n *node) untouched(of v1alpha1.Infrastructure) bool {
	return n.Unwritable(of) != "" && n.report.Owner == "" && n.report.Change == ""
}

// Leave implements controlplane.Leaver. A namespace takes a while to be gone, which nobody waits for.
func (c *Cluster) Leave(ctx context.Context) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	gone, err := c.agents.remove(ctx)
	if !gone && err == nil {
		_, err = c.agents.remove(ctx) // what comes after the agents
	}
	return err
}

// released is what all nodes are to have when the cluster is released: the furthest keys of any of them, as files, and
// the foreign keys that they have.
func (v *view) released() controlplane.Target {
	var keys rotation.Keys
	for _, n := range v.staying() {
		if n.configured.Stage() > keys.Stage() {
			keys = n.configured
		}
	}
	keys.External = false
	return controlplane.Target{Keys: keys, ControllerManagerSign: keys.Sign}
}
