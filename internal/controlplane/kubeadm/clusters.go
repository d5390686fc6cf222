package kubeadm

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
)

// DefaultAgentNamespace is the namespace in which the agents of a cluster run unless Images.Namespace names another
// one.
const DefaultAgentNamespace = "keyturn-agent"

// Images are what runs in the clusters.
type Images struct {
	// Agent and Signer are the images of keyturn-agent and keyturn-signer.
	Agent, Signer string
	// Namespace is where agents run. It is made, and removed when a cluster is released, except in the cluster that the
	// controller runs in: there it is given, with the rights of the controller in it.
	Namespace string
}

// Configs finds out how the API servers of a cluster are reached, with the rights of an administrator. An error that
// lasts until somebody acts is a controlplane.BlockedError.
type Configs interface {
	Config(ctx context.Context, uc *v1alpha1.UserCluster) (*rest.Config, error)
}

// Clusters opens clusters, and remembers what it saw of them. What it remembers goes into patience, and into what is
// reported of an API server that cannot be reached.
type Clusters struct {
	Access Configs
	// Amend adds to what a cluster shows what only those know who make its machines; nil: nobody does. An error means that
	// not everything could be seen.
	Amend  func(ctx context.Context, uc *v1alpha1.UserCluster, f *Found) error
	Images Images
	// Keys are the key versions of all clusters.
	Keys keystore.Store
	// Prover asks API servers.
	Prover *controlplane.Prover

	mu sync.Mutex
	of map[types.UID]*memory
}

// memory is what is remembered of one cluster.
type memory struct {
	mu sync.Mutex
	// reach is how the cluster was reached last, and by whose credentials.
	reach *reach
	// nodes are what its control-plane nodes were seen with last, by name.
	nodes map[string]nodeMemory
	// wanted are the keys for which agents were made last: until all nodes have them, these are not idle.
	wanted rotation.Keys
	// quiet is since when all nodes have the keys of Refresh; zero when they do not.
	quiet time.Time
	// missing is how many calls in a row have waited for agents.
	missing int
	// released means that no agent has anything left of the cluster.
	released bool
}

// nodeMemory is what is remembered of a control-plane node.
type nodeMemory struct {
	configured rotation.Keys
	// manager is with which key version its kube-controller-manager was asked to sign; 0 when it was seen nowhere.
	manager int
	// mark and managerMark are the last ones that the mirror pods of both showed.
	mark, managerMark string
	// served are the keys that its API server served last.
	served jwks.Set
	// written is the mark of a change whose manifest is written, and since is when its API server was first seen to answer
	// with other keys.
	written string
	since   time.Time
	// logged is the end of the log of its API server during the last change with which that was seen not to be ready.
	logged logged
	// left is why its agent has yet to carry out the last order, in words; empty if it has.
	left string
}

// Open returns the cluster of a UserCluster, whose nodes kubeadm made. It asks nobody anything yet.
func (c *Clusters) Open(uc *v1alpha1.UserCluster) *Cluster {
	return &Cluster{
		uc: uc, store: c.Keys, images: c.Images, memory: c.remember(types.UID(uc.Identity())), now: time.Now,
		open: func(ctx context.Context) (plane, agents, error) { return c.reach(ctx, uc) },
	}
}

func (c *Clusters) remember(cluster types.UID) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[types.UID]*memory{}
	}
	if c.of[cluster] == nil {
		c.of[cluster] = &memory{nodes: map[string]nodeMemory{}}
	}
	return c.of[cluster]
}

// Forget drops all that is remembered of a cluster, and closes its connections.
func (c *Clusters) Forget(cluster types.UID) {
	c.mu.Lock()
	m := c.of[cluster]
	delete(c.of, cluster)
	c.mu.Unlock()
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reach.close()
	}
}

// reach returns how a cluster is reached. While its credentials stay, so do its connections.
func (c *Clusters) reach(ctx context.Context, uc *v1alpha1.UserCluster) (plane, agents, error) {
	cfg, err := c.Access.Config(ctx, uc)
	if err != nil {
		return nil, nil, err
	}
	m := c.remember(types.UID(uc.Identity()))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reach == nil || !sameCredentials(m.reach.cfg, cfg) {
		m.reach.close()
		m.reach = newReach(types.UID(uc.Identity()), cfg, c.Prover)
		if c.Amend != nil {
			m.reach.amend = func(ctx context.Context, f *Found) error { return c.Amend(ctx, uc, f) }
		}
	}
	on := uc.Spec.Infrastructure
	return m.reach, &pods{
		reach: m.reach, images: c.Images, cluster: uc.Identity(), certificatesDir: on.CertificatesDir(),
		given: on.Kubeadm != nil && on.Kubeadm.KubeconfigSecret == "",
	}, nil
}

// sameCredentials reports whether two configurations of this package reach one cluster in the same way.
func sameCredentials(a, b *rest.Config) bool {
	return a.Host == b.Host && string(a.CAData) == string(b.CAData) && string(a.CertData) == string(b.CertData) &&
		string(a.KeyData) == string(b.KeyData) && a.BearerTokenFile == b.BearerTokenFile
}
