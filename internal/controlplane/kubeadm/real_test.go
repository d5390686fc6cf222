package kubeadm

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
	local "github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
)

// rotationTimeout is how long a rotation may take: with files it restarts the only API server three times, and the
// kubelet lets kube-scheduler, which falls each time, wait longer before each of its starts.
const rotationTimeout = 15 * time.Minute

// TestRealLife does what TestLife does, on a cluster that kubeadm made: adopt, rotate with files, convert, rotate
// with a signer, release. It logs how long each part takes.
func TestRealLife(t *testing.T) {
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it takes minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
	c := kubeadmtest.New(t, local.Options{}, "keyturn-agent", "keyturn-signer")
	c.Must(c.Start(t.Context(), "cp-1", local.ControlPlane))
	c.Must(c.Init(t.Context(), "cp-1"))
	raw, err := c.Kubeconfig()
	c.Must(err)

	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "keys", Name: "prod", UID: "uid-1"}}
	uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{
		KubeconfigSecret: "prod", ShutdownSendRetryAfter: true,
	}
	uc.Spec.KSASigningKey.Version = 1
	secrets := fake.NewClientBuilder().WithObjects(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "keys", Name: "prod", Labels: map[string]string{v1alpha1.LabelCluster: "prod"},
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{v1alpha1.KubeconfigKey: raw},
	}).Build()
	prover := &controlplane.Prover{}
	store := &keystoretest.Memory{}
	clusters := &Clusters{
		Access: Access{Secrets: secrets}, Keys: store, Prover: prover,
		Images: Images{
			Agent: kubeadmtest.Image("keyturn-agent"), Signer: kubeadmtest.Image("keyturn-signer"),
			Namespace: DefaultAgentNamespace,
		},
	}
	d := &driver{t: t, uc: uc, store: store, open: func() *Cluster { return clusters.Open(uc) }}
	d.prove = func(a *Cluster, server string, keys []keystore.KeyPair) (controlplane.Proof, error) {
		cfg, err := a.Config(t.Context(), server)
		if err != nil {
			return controlplane.Proof{}, err
		}
		q := controlplane.Question{
			Cluster: uc.UID, Config: cfg, Keys: keys, External: uc.Spec.KeySource() == v1alpha1.KeySourceExternal,
		}
		return prover.Prove(t.Context(), q)
	}
	keys := map[int]crypto.Signer{}
	settle := func(what string) {
		began := time.Now()
		defer func() {
			for _, line := range d.log {
				t.Log(line)
			}
			d.log = nil
		}()
		c.Within(rotationTimeout, what, func(context.Context) error {
			if got := d.round(); !got.Settled {
				return errors.New(got.Waiting)
			}
			return nil
		})
		t.Logf("MEASURED %s: %.1f s", what, time.Since(began).Seconds())
		for _, k := range d.keys() {
			keys[k.Version] = k.Signer
		}
	}
	settle("adoption")
	uc.Spec.KSASigningKey.Version = 2
	settle("a rotation with files")
	uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	settle("the conversion to a signer")
	uc.Spec.KSASigningKey.Version = 3
	settle("a rotation with a signer")
	expectSecrecy(c, keys)
	began := time.Now()
	c.Within(rotationTimeout, "the release", func(ctx context.Context) error {
		gone, err := clusters.Open(uc).Delete(ctx)
		if err == nil && !gone {
			err = fmt.Errorf("it is not gone")
		}
		return err
	})
	t.Logf("MEASURED the release: %.1f s", time.Since(began).Seconds())
	signs, err := c.ReadFile("cp-1", "/etc/kubernetes/pki/sa.key")
	c.Must(err)
	if len(signs) == 0 {
		t.Error("sa.key is gone")
	}
	expectSecrecy(c, keys)
}

// expectSecrecy searches the cluster for its private keys. The one that signs is where kube-apiserver and its signer
// read it, and no other is anywhere: the store is not in the cluster.
func expectSecrecy(c *kubeadmtest.Cluster, keys map[int]crypto.Signer) {
	last := slices.Max(slices.Collect(maps.Keys(keys)))
	for version, key := range keys {
		traces, err := kubeadmtest.TracesOf(key)
		c.Must(err)
		what := fmt.Sprintf("private key of version %d", version)
		if version < last {
			c.ExpectTraces(what, traces)
			continue
		}
		const file = "/etc/kubernetes/pki/sa.key"
		if found := c.ExpectTraces(what, traces, file, "/var/lib/keyturn/keys/"); !slices.Contains(found, file) {
			c.Must(errors.New("the search finds no sa.key"))
		}
	}
}
