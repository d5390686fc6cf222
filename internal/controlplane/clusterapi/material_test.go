package clusterapi

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keyPairs are versions from 1 on.
func keyPairs(n int) (keys []keystore.KeyPair) {
	for version := 1; version <= n; version++ {
		keys = append(keys, must(keystore.Generate(rand.Reader, version, jwks.ES256)))
	}
	return keys
}

// secretOf is a Secret as Cluster API has it, with these public keys and the first one's private key.
func secretOf(keys ...keystore.KeyPair) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "prod-sa"}, Type: "cluster.x-k8s.io/secret",
		Data: map[string][]byte{corev1.TLSPrivateKeyKey: must(token.MarshalPrivateKey(keys[0].Signer))},
	}
	for _, k := range keys {
		s.Data[corev1.TLSCertKey] = append(s.Data[corev1.TLSCertKey], must(jwks.MarshalPublicKey(k.Signer.Public()))...)
	}
	return s
}

// keysOf are the kids of the public keys of a Secret, in their order, and that of its private key.
func keysOf(t *testing.T, s *corev1.Secret) (public []string, private string) {
	t.Helper()
	for block := range strings.SplitAfterSeq(string(s.Data[corev1.TLSCertKey]), "-----END PUBLIC KEY-----\n") {
		if block != "" {
			public = append(public, must(jwks.KeyID(must(jwks.ParsePublicKey([]byte(block))))))
		}
	}
	return public, must(jwks.KeyID(must(token.ParsePrivateKey(s.Data[corev1.TLSPrivateKeyKey])).Public()))
}

// adopted is a UserCluster of Cluster default/prod.
func adopted() *v1alpha1.UserCluster {
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "prod", UID: "uid-1"}}
	uc.Spec.Infrastructure.ClusterAPI = &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}
	return uc
}

// TestReadMaterial reads what machines start with.
func TestReadMaterial(t *testing.T) {
	k := keyPairs(4)
	versions := map[string]int{k[0].KeyID: 1, k[1].KeyID: 2, k[2].KeyID: 3}
	for name, tt := range map[string]struct {
		secret   *corev1.Secret
		versions map[string]int
		want     rotation.Keys
		foreign  int
	}{
		"not adopted":     {secretOf(k[0]), nil, rotation.Keys{}, 0},
		"one":             {secretOf(k[0]), versions, rotation.Keys{Verify: []int{1}, Sign: 1}, 0},
		"published":       {secretOf(k[0], k[1]), versions, rotation.Keys{Verify: []int{1, 2}, Sign: 1}, 0},
		"switched":        {secretOf(k[1], k[0]), versions, rotation.Keys{Verify: []int{1, 2}, Sign: 2}, 0},
		"a foreign key":   {secretOf(k[0], k[3]), versions, rotation.Keys{Verify: []int{1}, Sign: 1}, 1},
		"signs a foreign": {secretOf(k[3], k[0]), versions, unknownKeys, 1},
		"of no step":      {secretOf(k[2], k[0]), versions, unknownKeys, 0},
		"broken": {&corev1.Secret{Data: map[string][]byte{
			corev1.TLSCertKey: []byte("a"), corev1.TLSPrivateKeyKey: []byte("b"),
		}}, versions, unknownKeys, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := readMaterial(tt.secret, tt.versions)
			if !m.keys.Equal(tt.want) || len(m.foreign) != tt.foreign {
				t.Errorf("it has %+v and %d foreign keys, want %+v and %d", m.keys, len(m.foreign), tt.want, tt.foreign)
			}
		})
	}
}

// TestFiles has the signing key first, and foreign keys as long as nobody has released them.
func TestFiles(t *testing.T) {
	k := keyPairs(4)
	versions := map[string]int{k[0].KeyID: 1, k[1].KeyID: 2}
	m := readMaterial(secretOf(k[0], k[2], k[3]), versions)
	for name, tt := range map[string]struct {
		keys rotation.Keys
		drop []string
		want []keystore.KeyPair
	}{
		"published":      {rotation.Keys{Verify: []int{1, 2}, Sign: 1}, nil, []keystore.KeyPair{k[0], k[1], k[2], k[3]}},
		"switched":       {rotation.Keys{Verify: []int{1, 2}, Sign: 2}, nil, []keystore.KeyPair{k[1], k[0], k[2], k[3]}},
		"retired":        {rotation.Keys{Verify: []int{2}, Sign: 2}, nil, []keystore.KeyPair{k[1], k[2], k[3]}},
		"one was let go": {rotation.Keys{Verify: []int{2}, Sign: 2}, []string{k[2].KeyID}, []keystore.KeyPair{k[1], k[3]}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Cluster{uc: adopted()}
			s, err := c.compose(m, controlplane.Target{Keys: tt.keys, DropForeign: tt.drop}, k[:2])
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, k := range tt.want {
				want = append(want, k.KeyID)
			}
			if public, private := keysOf(t, s); !slices.Equal(public, want) || private != want[0] {
				t.Errorf("it has %v and signs with %s, want %v", public, private, want)
			}
		})
	}
}

// TestGive has somebody put back what was there before, by the real API server, which knows who wrote what.
func TestGive(t *testing.T) {
	admin := must(client.New(kubetest.Start(t, kubetest.Options{}), client.Options{}))
	k := keyPairs(2)
	store := &keystoretest.Memory{}
	uc := adopted()
	of := keystore.ClusterOf(uc)
	for _, each := range k {
		must(0, store.Create(t.Context(), of, each))
	}
	must(0, admin.Create(t.Context(), secretOf(k[0]), client.FieldOwner("manager")))
	clusters := NewClusters(Options{Client: admin, Keys: store, Prover: &controlplane.Prover{}})
	published := controlplane.Target{Keys: rotation.Keys{Verify: []int{1, 2}, Sign: 1}, Bootstrap: true}
	switched := controlplane.Target{Keys: rotation.Keys{Verify: []int{1, 2}, Sign: 2}, Bootstrap: true}
	give := func(target controlplane.Target) error {
		c := clusters.Open(uc)
		m, err := c.material(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c.give(t.Context(), m, target, k)
	}
	has := func(want rotation.Keys) {
		t.Helper()
		if m := must(clusters.Open(uc).material(t.Context())); !m.keys.Equal(want) {
			t.Errorf("it has %+v, want %+v", m.keys, want)
		}
	}
	revert := func(to *corev1.Secret, keepAnnotations bool) {
		t.Helper()
		s := &corev1.Secret{}
		must(0, admin.Get(t.Context(), client.ObjectKeyFromObject(to), s))
		if s.Data = to.Data; !keepAnnotations {
			s.Annotations = nil
		}
		must(0, admin.Update(t.Context(), s, client.FieldOwner("argocd")))
	}
	refused := func(why string) {
		t.Helper()
		err := give(switched)
		_, blocked := errors.AsType[*controlplane.BlockedError](err)
		if !blocked || !strings.Contains(err.Error(), `"argocd"`) {
			t.Errorf("%s: %v, want it to be blocked and to name who wrote it", why, err)
		}
	}
	must(0, give(published))
	has(published.Keys)
	must(0, give(switched))
	has(switched.Keys)

	revert(secretOf(k[0], k[1]), false)
	refused("with a record in memory")
	clusters.Forget(uc.UID)
	must(0, give(switched)) // nobody knows better: this is how a step begins
	revert(secretOf(k[0], k[1]), true)
	clusters.Forget(uc.UID)
	refused("with a record in the Secret")
	revert(secretOf(k[0]), false)
	refused("with no record, a step back from where any step begins")

	uc.Annotations = map[string]string{v1alpha1.AnnotationRetryChange: "1"}
	must(0, give(switched))
	has(switched.Keys)
	revert(secretOf(k[0]), false)
	refused("with an annotation that was used")
	clusters.Forget(uc.UID)
	uc.Annotations[v1alpha1.AnnotationRetryChange] = "2"
	must(0, give(switched))
	has(switched.Keys)

	other := uc.DeepCopy()
	other.Name, other.UID = "other", "uid-2"
	m := must(clusters.Open(other).material(t.Context()))
	err := clusters.Open(other).give(t.Context(), m, switched, k)
	if err == nil || !strings.Contains(err.Error(), "another UserCluster") {
		t.Errorf("another UserCluster writes the Secret: %v", err)
	}
	if gone := must(clusters.Open(uc).letGo(t.Context())); !gone {
		t.Error("it is not let go")
	}
	has(switched.Keys)
	s := must(clusters.Open(uc).material(t.Context())).secret
	if len(s.Labels) > 0 || len(s.Annotations) > 0 {
		t.Errorf("marks are left: %v %v", s.Labels, s.Annotations)
	}
}
