package keystore_test

import (
	"errors"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

const raced = "blue-ksa-signing-key-1"

// before returns a configuration with which something happens before the request of a method that has a number,
// counted from 1.
func before(config *rest.Config, method string, number int, happens func() kubetest.Fault) *rest.Config {
	return kubetest.Inject(config, func(r *http.Request) kubetest.Fault {
		if r.Method != method {
			return kubetest.None
		}
		if number--; number != 0 {
			return kubetest.None
		}
		return happens()
	})
}

// testDeleteRaces deletes a key version while somebody else works on its Secret.
func testDeleteRaces(t *testing.T, config *rest.Config) {
	client := newClient(t, config)
	remove := func() {
		if err := client.CoreV1().Secrets(blue.Namespace).Delete(t.Context(), raced, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	replace := func() {
		remove()
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: raced}, Type: v1alpha1.SecretTypeSigningKey}
		if _, err := client.CoreV1().Secrets(blue.Namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	hold := func() {
		s := get(t, client, raced)
		s.Finalizers = []string{"example.com/held"}
		update(t, client, s)
	}
	tests := map[string]struct {
		happens func()
		want    func(error) bool
		left    bool
	}{
		"removed":  {remove, func(err error) bool { return err == nil }, false},
		"replaced": {replace, apierrors.IsConflict, true},
		"changed":  {hold, apierrors.IsConflict, true},
	}
	for name, test := range tests {
		if err := newStore(t, config).Create(t.Context(), blue, generate(t, 1)); err != nil {
			t.Fatal(err)
		}
		racing := before(config, http.MethodDelete, 1, func() kubetest.Fault {
			test.happens()
			return kubetest.None
		})
		if err := newStore(t, racing).Delete(t.Context(), blue, 1); !test.want(err) {
			t.Errorf("%s: deleting = %v", name, err)
		}
		wantLeft(t, client, name, test.left)
	}
}

// wantLeft checks whether the Secret is there, unmarked for deletion, and removes it.
func wantLeft(t *testing.T, client kubernetes.Interface, name string, want bool) {
	t.Helper()
	secrets := client.CoreV1().Secrets(blue.Namespace)
	s, err := secrets.Get(t.Context(), raced, metav1.GetOptions{})
	if left := err == nil && s.DeletionTimestamp == nil; left != want || (err != nil && !apierrors.IsNotFound(err)) {
		t.Errorf("%s: the Secret is left: %t (%v), want %t", name, left, err, want)
	}
	if err != nil {
		return
	}
	s.Finalizers = nil
	update(t, client, s)
	if err := secrets.Delete(t.Context(), raced, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// testDeleteBlind fails the reads around a deletion: the one before it, of which nothing is ambiguous, and the one
// after.
func testDeleteBlind(t *testing.T, config *rest.Config) {
	store := newStore(t, config)
	unavailable := func() kubetest.Fault { return http.StatusServiceUnavailable }
	blind := func(read int) *keystore.Secrets {
		return newStore(t, before(config, http.MethodGet, read, unavailable))
	}
	if err := store.Create(t.Context(), blue, generate(t, 1)); err != nil {
		t.Fatal(err)
	}
	err := blind(1).Delete(t.Context(), blue, 1)
	if !apierrors.IsServiceUnavailable(err) || errors.Is(err, keystore.ErrAmbiguous) {
		t.Errorf("reading failed before: %v, want that the service is unavailable", err)
	}
	wantVersions(t, store, 1)
	if err := blind(2).Delete(t.Context(), blue, 1); !errors.Is(err, keystore.ErrAmbiguous) {
		t.Errorf("reading failed after: %v, want ErrAmbiguous", err)
	}
	wantVersions(t, store)
}

// testDeletedAndMade has somebody make the Secret again right after its deletion: that one is another key.
func testDeletedAndMade(t *testing.T, config *rest.Config) {
	store := newStore(t, config)
	if err := store.Create(t.Context(), blue, generate(t, 1)); err != nil {
		t.Fatal(err)
	}
	racing := before(config, http.MethodGet, 2, func() kubetest.Fault {
		if err := store.Create(t.Context(), blue, generate(t, 1)); err != nil {
			t.Error(err)
		}
		return kubetest.None
	})
	if err := newStore(t, racing).Delete(t.Context(), blue, 1); err != nil {
		t.Error(err)
	}
	wantVersions(t, store, 1)
}
