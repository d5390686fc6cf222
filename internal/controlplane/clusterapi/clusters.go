package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/keystore"
)

// Clusters opens clusters, and remembers of each what its bootstrap material was last given.
type Clusters struct {
	client     client.Client
	namespaces []string
	keys       keystore.Store
	kubeadm    *kubeadm.Clusters

	mu sync.Mutex
	of map[types.UID]*memory
}

// Options are what clusters are opened with.
type Options struct {
	// Client reaches the management cluster: it reads objects of Cluster API, and reads and updates Secrets. It must read
	// Secrets from no cache.
	Client client.Client
	// Namespaces are those whose UserClusters may name a Cluster beside them. With that they get the rights of an
	// administrator of its cluster.
	Namespaces []string
	// Images are what runs in the clusters, Keys are the key versions of all clusters, and Prover asks API servers.
	Images kubeadm.Images
	Keys   keystore.Store
	Prover *controlplane.Prover
}

// NewClusters returns the clusters of a management cluster.
func NewClusters(o Options) *Clusters {
	c := &Clusters{client: o.Client, namespaces: o.Namespaces, keys: o.Keys, of: map[types.UID]*memory{}}
	c.kubeadm = &kubeadm.Clusters{Access: c, Amend: c.amend, Images: o.Images, Keys: o.Keys, Prover: o.Prover}
	return c
}

// Open returns the cluster of a UserCluster with spec.infrastructure.clusterAPI. It asks nobody anything yet.
func (c *Clusters) Open(uc *v1alpha1.UserCluster) *Cluster {
	return &Cluster{
		kubeadmCluster: c.kubeadm.Open(uc), uc: uc, keys: c.keys,
		management: managementOf(c.client, uc), client: c.client, roller: c.Roller(uc),
		memory: c.remember(types.UID(uc.Identity())),
	}
}

func (c *Clusters) remember(cluster types.UID) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[cluster] == nil {
		c.of[cluster] = &memory{}
	}
	return c.of[cluster]
}

// Object returns the Cluster of a UserCluster, to tell events about; nil until it was observed.
func (c *Clusters) Object(uc *v1alpha1.UserCluster) runtime.Object {
	m := c.remember(types.UID(uc.Identity()))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.uid == "" {
		return nil
	}
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(coreVersion.WithKind("Cluster"))
	o.SetNamespace(uc.Namespace)
	o.SetName(uc.Spec.Infrastructure.ClusterAPI.Cluster)
	o.SetUID(m.uid)
	return o
}

// Forget drops all that is remembered of a cluster, and closes its connections.
func (c *Clusters) Forget(cluster types.UID) {
	c.mu.Lock()
	delete(c.of, cluster)
	c.mu.Unlock()
	c.kubeadm.Forget(cluster)
}

// amend adds to what a cluster shows what the Machines of its control plane show.
func (c *Clusters) amend(ctx context.Context, uc *v1alpha1.UserCluster, f *kubeadm.Found) error {
	machines, err := managementOf(c.client, uc).machines(ctx)
	if err != nil {
		return err
	}
	amend(machines, f)
	if uc.Spec.Infrastructure.RollsOut() {
		// Nobody changes sa.key on a machine, so each kube-controller-manager signs with the key of the API server there.
		f.Managers = nil
	}
	return nil
}

// Config implements kubeadm.Configs. Cluster API gives a kubeconfig a new certificate before that of its user expires,
// so it is read each time.
func (c *Clusters) Config(ctx context.Context, uc *v1alpha1.UserCluster) (*rest.Config, error) {
	if !slices.Contains(c.namespaces, uc.Namespace) {
		return nil, controlplane.Blocked(fmt.Errorf("keyturn-controller was started without --cluster-api-namespace=%s, and "+
			"gives UserClusters there no rights on clusters of Cluster API", uc.Namespace))
	}
	m := managementOf(c.client, uc)
	key := m.key(m.cluster + "-kubeconfig")
	secret := &corev1.Secret{}
	err := c.client.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no Secret %s yet, by which Cluster API gives access to the cluster", key)
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", key, lasting(err))
	}
	config, err := kubeadm.ParseKubeconfig(secret.Data["value"])
	if err != nil {
		return nil, controlplane.Blocked(fmt.Errorf("key %q of Secret %s: %w", "value", key, err))
	}
	return config, nil
}

// isGone reports whether an error means that there is no such Cluster.
func isGone(err error) bool { return errors.Is(err, errGone) }
