package controller_test

import (
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestPrivateKeysAreReadOnce counts the requests that read private keys: one for each key version, and none in the
// rounds of a settled cluster. A cluster that is gone is forgotten, also if it went without the controller.
func TestPrivateKeysAreReadOnce(t *testing.T) {
	reads := &atomic.Int64{}
	w := newFaultyWorld(t, kubetest.Inject(controllerConfig, func(r *http.Request) kubetest.Fault {
		if readsKeys(r) {
			reads.Add(1)
		}
		return kubetest.None
	}))
	want := func(when string, n int64) {
		t.Helper()
		if got := reads.Swap(0); got != n {
			t.Errorf("%s: %d requests read private keys, want %d", when, got, n)
		}
	}
	blue := w.settled("blue")
	want("creating a cluster", 1)
	for range 3 {
		w.round(blue)
	}
	want("three rounds of a settled cluster", 0)
	w.rotate(blue)
	w.until(blue, isSettled)
	want("a rotation", 1)

	uid := string(w.get(blue).UID)
	w.takeAway(blue)
	if _, err := w.reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: blue}); err != nil {
		t.Fatal(err)
	}
	cluster := keystore.Cluster{Namespace: blue.Namespace, Name: blue.Name, UID: uid}
	if keys, err := w.keys.List(t.Context(), cluster); err != nil || len(keys) != 1 {
		t.Fatalf("keys of the cluster that is gone = %v, %v, want one", keys, err)
	}
	want("listing the keys of a cluster that is gone", 1)
}

// readsKeys reports whether a request reads the data of key Secrets.
func readsKeys(r *http.Request) bool {
	name := path.Base(r.URL.Path)
	return r.Method == http.MethodGet && (name == "secrets" || strings.Contains(name, "-ksa-signing-key-")) &&
		!strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")
}
