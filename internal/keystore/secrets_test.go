package keystore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

var blue = keystore.Cluster{Namespace: "keys", Name: "blue", UID: "uid-of-blue"}

// TestSecrets runs everything against one API server.
func TestSecrets(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	t.Run("Conformance", func(t *testing.T) {
		keystoretest.Run(t, func(t *testing.T, namespaces ...string) keystore.Store {
			client := newClient(t, config)
			for _, namespace := range namespaces {
				createNamespace(t, client, namespace)
			}
			return newStore(t, config)
		})
	})
	createNamespace(t, newClient(t, config), blue.Namespace)
	for name, test := range map[string]func(*testing.T, *rest.Config){
		"Form":           testForm,
		"Finalizer":      testFinalizer,
		"OtherType":      testOtherType,
		"Strict":         testStrict,
		"SharedKey":      testSharedKey,
		"LostWrites":     testLostWrites,
		"Refusals":       testRefusals,
		"DeleteRaces":    testDeleteRaces,
		"DeleteBlind":    testDeleteBlind,
		"DeletedAndMade": testDeletedAndMade,
		"Reads":          testReads,
		"Selects":        testSelects,
		"Forgotten":      testForgotten,
		"Replaced":       testReplaced,
		"ReadRaces":      testReadRaces,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, config)
			// A namespace that is deleted would need kube-controller-manager to go away.
			secrets := newClient(t, config).CoreV1().Secrets(blue.Namespace)
			if err := secrets.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func testForm(t *testing.T, config *rest.Config) {
	client := newClient(t, config)
	k := generate(t, 7)
	if err := newStore(t, config).Create(t.Context(), blue, k); err != nil {
		t.Fatal(err)
	}
	s := get(t, client, "blue-ksa-signing-key-7")
	if s.Type != v1alpha1.SecretTypeSigningKey || s.Immutable == nil || !*s.Immutable {
		t.Errorf("the Secret is of type %s and not immutable, or of another type than documented", s.Type)
	}
	if s.Labels[v1alpha1.LabelCluster] != "blue" || s.Labels[v1alpha1.LabelKeyVersion] != "7" ||
		s.Labels[v1alpha1.LabelClusterUID] != blue.UID {
		t.Errorf("labels = %v", s.Labels)
	}
	private, err := token.MarshalPrivateKey(k.Signer)
	if err != nil || string(s.Data["private.pem"]) != string(private) {
		t.Errorf("private.pem is not the private key as PKCS #8 (%v)", err)
	}
	public, err := jwks.MarshalPublicKey(k.Signer.Public())
	if err != nil || string(s.Data["public.pem"]) != string(public) {
		t.Errorf("public.pem is not the public key (%v)", err)
	}
	s.Data["public.pem"] = nil
	if _, err := client.CoreV1().Secrets(s.Namespace).Update(t.Context(), s, metav1.UpdateOptions{}); err == nil {
		t.Error("the data of the Secret could be changed")
	}
}

func testFinalizer(t *testing.T, config *rest.Config) {
	client := newClient(t, config)
	store := newStore(t, config)
	if err := store.Create(t.Context(), blue, generate(t, 1)); err != nil {
		t.Fatal(err)
	}
	s := get(t, client, "blue-ksa-signing-key-1")
	s.Finalizers = []string{"example.com/held"}
	s = update(t, client, s)
	for range 2 {
		err := store.Delete(t.Context(), blue, 1)
		if err == nil || !strings.Contains(err.Error(), "example.com/held") {
			t.Errorf("deleting = %v, want an error that names the finalizer", err)
		}
	}
	s = get(t, client, s.Name)
	s.Finalizers = nil
	update(t, client, s)
	if err := store.Delete(t.Context(), blue, 1); err != nil {
		t.Error(err)
	}
}

// testOtherType has a Secret of somebody else under the name of a key Secret.
func testOtherType(t *testing.T, config *rest.Config) {
	client := newClient(t, config)
	store := newStore(t, config)
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "blue-ksa-signing-key-1"}}
	if _, err := client.CoreV1().Secrets(blue.Namespace).Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store)
	err := store.Create(t.Context(), blue, generate(t, 1))
	if !errors.Is(err, keystore.ErrForeign) ||
		!strings.Contains(err.Error(),
			"keys/blue-ksa-signing-key-1: it is not a key of this cluster: it is not of type keyturn.dev/ksa-signing-key") {
		t.Errorf("creating = %v, want ErrForeign with the name of the Secret and the type that it should have", err)
	}
	if err := store.Delete(t.Context(), blue, 1); !errors.Is(err, keystore.ErrForeign) {
		t.Errorf("deleting = %v, want ErrForeign", err)
	}
	if err := store.DeleteAll(t.Context(), blue); err != nil {
		t.Error(err)
	}
	get(t, client, other.Name)
}

// testStrict spoils a good key Secret in each way in which it can be.
func testStrict(t *testing.T, config *rest.Config) {
	client := newClient(t, config)
	store := newStore(t, config)
	other := generate(t, 1)
	otherPublic, err := jwks.MarshalPublicKey(other.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*corev1.Secret){
		"is not the public key":   func(s *corev1.Secret) { s.Data["public.pem"] = otherPublic },
		"public.pem:":             func(s *corev1.Secret) { delete(s.Data, "public.pem") },
		"private.pem:":            func(s *corev1.Secret) { s.Data["private.pem"] = []byte("MIGHAgEAMBMGByqGSM49") },
		"its kid does not belong": func(s *corev1.Secret) { s.Data["kid"] = []byte(other.KeyID) },
		"its algorithm is":        func(s *corev1.Secret) { s.Data["algorithm"] = []byte("RS256") },
		"its label":               func(s *corev1.Secret) { s.Labels[v1alpha1.LabelKeyVersion] = "2" },
	}
	for want, spoil := range tests {
		if err := store.Create(t.Context(), blue, generate(t, 1)); err != nil {
			t.Fatal(err)
		}
		name := "blue-ksa-signing-key-1"
		spoiled := get(t, client, name)
		spoil(spoiled)
		recreate(t, client, spoiled)
		_, err := store.List(t.Context(), blue)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("listing = %v, want an error that names the Secret and says %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "MIGH") {
			t.Errorf("the error shows the key: %v", err)
		}
		if err := store.DeleteAll(t.Context(), blue); err != nil {
			t.Errorf("a spoiled key cannot be deleted: %v", err)
		}
		wantVersions(t, store)
	}
}

func testSharedKey(t *testing.T, config *rest.Config) {
	store := newStore(t, config)
	k := generate(t, 1)
	if err := store.Create(t.Context(), blue, k); err != nil {
		t.Fatal(err)
	}
	k.Version = 2
	if err := store.Create(t.Context(), blue, k); err != nil {
		t.Fatal(err)
	}
	if _, err := store.List(t.Context(), blue); err == nil || !strings.Contains(err.Error(), "same key") {
		t.Errorf("listing = %v, want an error that says that two versions share a key", err)
	}
}

// testLostWrites loses requests and answers. Either way the error is the same, and reading tells what happened.
func testLostWrites(t *testing.T, config *rest.Config) {
	good := newStore(t, config)
	for fault, persisted := range map[kubetest.Fault]bool{
		kubetest.LoseRequest: false, kubetest.LoseAnswer: true,
		http.StatusInternalServerError: false, http.StatusServiceUnavailable: false, http.StatusGatewayTimeout: false,
	} {
		failing := newStore(t, faultyWrites(config, fault))
		if err := failing.Create(t.Context(), blue, generate(t, 1)); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Errorf("creating with fault %d: %v, want ErrAmbiguous", fault, err)
		}
		if !persisted {
			wantVersions(t, good)
			if err := good.Create(t.Context(), blue, generate(t, 1)); err != nil {
				t.Fatal(err)
			}
		}
		wantVersions(t, good, 1)
		if err := failing.Delete(t.Context(), blue, 1); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Errorf("deleting with fault %d: %v, want ErrAmbiguous", fault, err)
		}
		if !persisted {
			wantVersions(t, good, 1)
			if err := good.Delete(t.Context(), blue, 1); err != nil {
				t.Fatal(err)
			}
		}
		wantVersions(t, good)
	}
}

// testRefusals has the API server refuse writes, of which nothing is ambiguous.
func testRefusals(t *testing.T, config *rest.Config) {
	nobody := rest.CopyConfig(config)
	nobody.Impersonate.UserName = "nobody"
	tests := map[string]struct {
		config  *rest.Config
		cluster keystore.Cluster
	}{
		"forbidden":    {nobody, blue},
		"no namespace": {config, keystore.Cluster{Namespace: "absent", Name: "blue", UID: "uid"}},
		"conflict":     {faultyWrites(config, http.StatusConflict), blue},
	}
	for name, test := range tests {
		store := newStore(t, test.config)
		err := store.Create(t.Context(), test.cluster, generate(t, 1))
		if err == nil || errors.Is(err, keystore.ErrAmbiguous) || errors.Is(err, keystore.ErrExists) {
			t.Errorf("%s: %v, want a plain error", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := newStore(t, config).Create(ctx, blue, generate(t, 1))
	if !errors.Is(err, keystore.ErrAmbiguous) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want ErrAmbiguous and context.Canceled", err)
	}
}

func faultyWrites(config *rest.Config, fault kubetest.Fault) *rest.Config {
	return kubetest.Inject(config, func(r *http.Request) kubetest.Fault {
		if r.Method == http.MethodGet {
			return kubetest.None
		}
		return fault
	})
}

func newClient(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func newStore(t *testing.T, config *rest.Config) *keystore.Secrets {
	t.Helper()
	store, err := keystore.NewSecrets(config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func createNamespace(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func generate(t *testing.T, version int) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, jwks.ES256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func get(t *testing.T, client kubernetes.Interface, name string) *corev1.Secret {
	t.Helper()
	s, err := client.CoreV1().Secrets(blue.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func update(t *testing.T, client kubernetes.Interface, s *corev1.Secret) *corev1.Secret {
	t.Helper()
	s, err := client.CoreV1().Secrets(s.Namespace).Update(t.Context(), s, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// recreate deletes an immutable Secret and creates it again as given.
func recreate(t *testing.T, client kubernetes.Interface, s *corev1.Secret) {
	t.Helper()
	secrets := client.CoreV1().Secrets(s.Namespace)
	if err := secrets.Delete(t.Context(), s.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.ObjectMeta = metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, Labels: s.Labels}
	if _, err := secrets.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func wantVersions(t *testing.T, store keystore.Store, want ...int) {
	t.Helper()
	keys, err := store.List(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, strconv.Itoa(k.Version))
	}
	var wanted []string
	for _, version := range want {
		wanted = append(wanted, strconv.Itoa(version))
	}
	if !slices.Equal(got, wanted) {
		t.Fatalf("versions = %v, want %v", got, wanted)
	}
}
