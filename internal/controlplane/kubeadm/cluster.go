package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/signer/ledger"
)

// Cluster is the control plane of one cluster that kubeadm made. It implements controlplane.Adapter and
// controlplane.Adopter.
//
// It keeps no record of its own. What an API server runs with, the API server shows: the keys in its JWKS, and the kid
// and the kind of a token that it issues. What it starts with next, its agent reads from the disk. Without agents
// nobody is changing anything, and it starts with what it runs with.
type Cluster struct {
	uc     *v1alpha1.UserCluster
	store  keystore.Store
	images Images
	memory *memory
	open   func(context.Context) (plane, agents, error)
	now    func() time.Time

	once   sync.Once
	plane  plane
	agents agents
	err    error
	// seen is what Observe saw, until Converge takes another look; nil without.
	seen *view
}

var (
	_ controlplane.Adapter = (*Cluster)(nil)
	_ controlplane.Adopter = (*Cluster)(nil)
	_ controlplane.Leaver  = (*Cluster)(nil)
)

// reach opens the cluster, once.
func (c *Cluster) reach(ctx context.Context) error {
	c.once.Do(func() { c.plane, c.agents, c.err = c.open(ctx) })
	return c.err
}

func (c *Cluster) key() keystore.Cluster {
	return keystore.ClusterOf(c.uc)
}

// Observe implements controlplane.Adapter.
func (c *Cluster) Observe(ctx context.Context) (controlplane.State, error) {
	v, err := c.look(ctx)
	if unseen, ok := errors.AsType[*unseenError](err); ok {
		return controlplane.State{Waiting: "the API servers to be found: " + unseen.Error()}, nil
	}
	if err != nil {
		return controlplane.State{}, err
	}
	c.seen = v
	s := v.state()
	if r, ok := c.plane.(*reach); ok {
		s.Endpoint = r.cfg.Host
	}
	return s, nil
}

// Config implements controlplane.Adapter.
func (c *Cluster) Config(ctx context.Context, server string) (*rest.Config, error) {
	if err := c.reach(ctx); err != nil {
		return nil, err
	}
	r, ok := c.plane.(*reach)
	if !ok {
		return nil, errors.New("the cluster cannot be reached")
	}
	if server == "" {
		return rest.CopyConfig(r.cfg), nil
	}
	s, err := c.server(ctx, server)
	if err != nil {
		return nil, err
	}
	return r.config(s)
}

// server returns an API server as Observe saw it, or as it is found now.
func (c *Cluster) server(ctx context.Context, node string) (s Server, err error) {
	var found Found
	if c.seen != nil {
		found = c.seen.found
	} else if found, err = c.plane.find(ctx); err != nil {
		return s, err
	}
	i := slices.IndexFunc(found.Servers, func(s Server) bool { return s.Node == node })
	if i < 0 {
		return s, fmt.Errorf("there is no API server on node %s", node)
	}
	return found.Servers[i], nil
}

// AdminKubeconfig implements controlplane.Adapter.
func (c *Cluster) AdminKubeconfig(context.Context) ([]byte, error) {
	return nil, errors.New("the cluster was not made by Keyturn: its administrators have a kubeconfig of their own")
}

// Ledger implements controlplane.Adapter. The signer's own program reads the ledger, in the pod of the signer: that is
// there also while no agent is.
func (c *Cluster) Ledger(ctx context.Context, server string) (r ledger.Report, err error) {
	if err := c.reach(ctx); err != nil {
		return r, err
	}
	s, err := c.server(ctx, server)
	switch {
	case err != nil:
		return r, err
	case s.Waiting != "":
		return r, errors.New(s.Waiting)
	case s.SignerSocket != signerSocket:
		return r, controlplane.ErrNoLedger
	}
	if r, err = c.agents.ledger(ctx, server); err != nil {
		return r, fmt.Errorf("reading the ledger of the signer on node %s: %w", server, err)
	}
	return r, nil
}

// unseenError is why a control plane could not be observed: it may exist.
type unseenError struct{ error }

func (e *unseenError) Unwrap() error { return e.error }

// problems returns why the keys of a cluster cannot be changed; nil if they can.
func (v *view) problems() error {
	if len(v.found.Problems) == 0 {
		return nil
	}
	return controlplane.Blocked(errors.New(v.problemText()))
}
