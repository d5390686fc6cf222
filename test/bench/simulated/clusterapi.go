package simulated

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubeconfig"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// Versions and labels of Cluster API.
const (
	coreVersion         = "cluster.x-k8s.io/v1beta2"
	controlPlaneVersion = "controlplane.cluster.x-k8s.io/v1beta2"
	clusterLabel        = "cluster.x-k8s.io/cluster-name"
	controlPlaneLabel   = "cluster.x-k8s.io/control-plane"
	secretType          = "cluster.x-k8s.io/secret"
)

// bootstrapSize is about how many bytes of bootstrap data kubeadm's control-plane machines have.
const bootstrapSize = 16 << 10

// ClusterAPI has clusters of Cluster API whose control planes exist in memory only. Their objects are real objects of a
// management cluster. Of Cluster API's controllers it does one thing, at once: it replaces control-plane Machines that
// are older than rollout.after, by machines that start with the keys of Secret CLUSTER-sa.
type ClusterAPI struct {
	management client.Client
	namespace  string
	dir        string
	ca         *pki.Authority
	client     pki.Pair
	clusters   []*workload
}

// NewClusterAPI makes nothing yet. Its files are in a directory, and its objects in a namespace of a management cluster
// that has the kinds of Cluster API, and no webhooks for them.
func NewClusterAPI(management client.Client, namespace, dir string) (*ClusterAPI, error) {
	ca, err := pki.EnsureAuthority(dir, "ca", "simulated-ca")
	if err != nil {
		return nil, err
	}
	// Each node is reached by its own name, which ends in the domain of all.
	_, errServer := ca.Ensure(dir, "server", pki.Request{
		CommonName: "server", Server: true, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Names: []string{"*." + nodeDomain},
	})
	pair, errClient := ca.Ensure(dir, "client", pki.Request{CommonName: "client", Client: true})
	return &ClusterAPI{
		management: management, namespace: namespace, dir: dir, ca: ca, client: pair,
	}, errors.Join(errServer, errClient)
}

// Make makes a cluster with some control-plane machines. It serves until ctx ends.
func (c *ClusterAPI) Make(ctx context.Context, name, version string, machines int) error {
	w, err := serveWorkload(ctx, name, c.dir)
	if err != nil {
		return err
	}
	cluster := capi.Cluster{Namespace: c.namespace, Name: name, Version: version, ControlPlanes: machines}
	objects, err := cluster.Manifests()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if kind := o.GetKind(); kind == "Cluster" || kind == "KubeadmControlPlane" {
			if err := c.management.Create(ctx, o); err != nil {
				return fmt.Errorf("creating %s %s: %w", kind, name, err)
			}
		}
	}
	if err := c.makeSecrets(ctx, w); err != nil {
		return fmt.Errorf("creating the Secrets of cluster %s: %w", name, err)
	}
	for range machines {
		if err := c.makeMachine(ctx, w); err != nil {
			return err
		}
	}
	c.clusters = append(c.clusters, w)
	return nil
}

// makeSecrets makes those that Cluster API makes for each cluster and that the controller reads.
func (c *ClusterAPI) makeSecrets(ctx context.Context, w *workload) error {
	signer, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		return err
	}
	private, errPrivate := token.MarshalPrivateKey(signer)
	public, errPublic := jwks.MarshalPublicKey(signer.Public())
	file, errFile := c.kubeconfig(w)
	if err := errors.Join(errPrivate, errPublic, errFile); err != nil {
		return err
	}
	return errors.Join(
		c.makeSecret(ctx, w, w.name+"-sa", map[string][]byte{
			corev1.TLSCertKey: public, corev1.TLSPrivateKeyKey: private,
		}),
		c.makeSecret(ctx, w, w.name+"-kubeconfig", map[string][]byte{"value": file}),
	)
}

func (c *ClusterAPI) kubeconfig(w *workload) ([]byte, error) {
	raw, err := pki.Kubeconfig("https://"+w.balancer(), w.name, "admin", c.ca.CertificatePEM(), c.client)
	if err != nil {
		return nil, err
	}
	_, err = kubeconfig.Parse(raw) // the controller refuses what this does
	return raw, err
}

func (c *ClusterAPI) makeSecret(ctx context.Context, w *workload, name string, data map[string][]byte) error {
	return c.management.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: name, Labels: map[string]string{clusterLabel: w.name}},
		Type:       secretType, Data: data,
	})
}

// makeMachine makes a control-plane Machine with its bootstrap data, and the API server on its node, which serves
// before the Machine has it.
func (c *ClusterAPI) makeMachine(ctx context.Context, w *workload) error {
	secret := &corev1.Secret{}
	if err := c.management.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: w.name + "-sa"}, secret); err != nil {
		return err
	}
	keys, err := readKeys(secret)
	if err != nil {
		return fmt.Errorf("reading Secret %s: %w", secret.Name, err)
	}
	name := w.nextMachine()
	if err := c.makeSecret(ctx, w, name, map[string][]byte{"value": make([]byte, bootstrapSize)}); err != nil {
		return err
	}
	m := c.object(coreVersion, "Machine", name)
	m.SetLabels(map[string]string{clusterLabel: w.name, controlPlaneLabel: ""})
	m.Object["spec"] = map[string]any{
		"clusterName": w.name, "bootstrap": map[string]any{"dataSecretName": name},
		"infrastructureRef": map[string]any{
			"apiGroup": "infrastructure.keyturn.dev", "kind": "LocalMachine", "name": name,
		},
	}
	if err := c.management.Create(ctx, m); err != nil {
		return fmt.Errorf("creating Machine %s: %w", name, err)
	}
	if err := w.addServer(name, keys); err != nil {
		return err
	}
	m.Object["status"] = map[string]any{"nodeRef": map[string]any{"name": name}}
	if err := c.management.Status().Update(ctx, m); err != nil {
		return fmt.Errorf("giving Machine %s its node: %w", name, err)
	}
	return nil
}

// readKeys reads what a machine starts with.
func readKeys(secret *corev1.Secret) (keys served, err error) {
	public, err := keyutil.ParsePublicKeysPEM(secret.Data[corev1.TLSCertKey])
	if err != nil {
		return keys, err
	}
	for _, p := range public {
		k, err := jwks.NewKey(p)
		if err != nil {
			return keys, err
		}
		keys.accepted = append(keys.accepted, k)
	}
	signer, err := token.ParsePrivateKey(secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return keys, err
	}
	keys.sign, err = keystore.New(1, signer)
	return keys, err
}

func (c *ClusterAPI) object(apiVersion, kind, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(c.namespace)
	o.SetName(name)
	return o
}

// rolloutInterval is how often KubeadmControlPlanes are read.
const rolloutInterval = 500 * time.Millisecond

// Run replaces machines until ctx ends, or something fails. No cluster may be made meanwhile.
func (c *ClusterAPI) Run(ctx context.Context) error {
	tick := time.NewTicker(rolloutInterval)
	defer tick.Stop()
	for {
		if err := c.rollOut(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("replacing machines: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// rollOut replaces what is to be replaced now.
func (c *ClusterAPI) rollOut(ctx context.Context) error {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(controlPlaneVersion)
	list.SetKind("KubeadmControlPlaneList")
	if err := c.management.List(ctx, list, client.InNamespace(c.namespace)); err != nil {
		return err
	}
	for _, o := range list.Items {
		text, _, err := unstructured.NestedString(o.Object, "spec", "rollout", "after")
		if err != nil || text == "" {
			continue
		}
		after, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(c.clusters, func(w *workload) bool { return w.name == o.GetName() })
		if i < 0 || after.After(time.Now()) {
			continue
		}
		if err := c.replace(ctx, c.clusters[i], after); err != nil {
			return err
		}
	}
	return nil
}

// replace replaces the machines of a cluster that are older.
func (c *ClusterAPI) replace(ctx context.Context, w *workload, after time.Time) error {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(coreVersion)
	list.SetKind("MachineList")
	err := c.management.List(ctx, list, client.InNamespace(c.namespace), client.MatchingLabels{clusterLabel: w.name})
	if err != nil {
		return err
	}
	for _, old := range list.Items {
		if !old.GetCreationTimestamp().Time.Before(after) {
			continue
		}
		if err := c.makeMachine(ctx, w); err != nil {
			return err
		}
		w.removeServer(old.GetName())
		if err := c.management.Delete(ctx, &old); err != nil {
			return err
		}
		data := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: old.GetName()}}
		if err := c.management.Delete(ctx, data); err != nil {
			return err
		}
	}
	return nil
}
