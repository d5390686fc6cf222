package keystore_test

import (
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// countReads returns a configuration, and how many requests by it read the data of Secrets.
func countReads(config *rest.Config) (*rest.Config, *atomic.Int64) {
	reads := &atomic.Int64{}
	return kubetest.Inject(config, func(r *http.Request) kubetest.Fault {
		if r.Method == http.MethodGet && !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
			reads.Add(1)
		}
		return kubetest.None
	}), reads
}

// testReads counts the readings of private keys: one for each version, and none for anything but List.
func testReads(t *testing.T, config *rest.Config) {
	counting, reads := countReads(config)
	store := newStore(t, counting)
	want := func(when string, n int64) {
		t.Helper()
		if got := reads.Swap(0); got != n {
			t.Errorf("%s: the data of %d Secrets were read, want %d", when, got, n)
		}
	}
	create := func(c keystore.Cluster, version int) error { return store.Create(t.Context(), c, generate(t, version)) }
	green := keystore.Cluster{Namespace: blue.Namespace, Name: "green", UID: "uid-of-green"}
	if err := errors.Join(create(blue, 1), create(green, 1), create(blue, 2)); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 1, 2)
	want("the first listing", 2)
	wantVersions(t, store, 1, 2)
	want("the second listing", 0)
	if err := create(blue, 2); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("creating version 2 again: %v, want ErrExists", err)
	}
	if err := errors.Join(store.Delete(t.Context(), blue, 1), create(blue, 3)); err != nil {
		t.Fatal(err)
	}
	want("creating and deleting", 0)
	wantVersions(t, store, 2, 3)
	want("listing a new version", 1)
	store.Forget(keystore.Cluster{Namespace: blue.Namespace, Name: blue.Name})
	wantVersions(t, store, 2, 3)
	want("listing what was forgotten", 2)
	if err := store.DeleteAll(t.Context(), blue); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store)
	want("deleting all", 0)
}

// testSelects wants the key Secrets of a namespace with many clusters to be listed once for each of them, and then
// those of one cluster alone. What another store wrote is seen at once, and a Secret without its label once it is in
// the way.
func testSelects(t *testing.T, config *rest.Config) {
	var lists []string
	store := newStore(t, kubetest.Inject(config, func(r *http.Request) kubetest.Fault {
		if r.Method == http.MethodGet && path.Base(r.URL.Path) == "secrets" {
			lists = append(lists, r.URL.Query().Get("labelSelector"))
		}
		return kubetest.None
	}))
	want := func(when string, selectors ...string) {
		t.Helper()
		if !slices.Equal(lists, selectors) {
			t.Errorf("%s: lists select %q, want %q", when, lists, selectors)
		}
		lists = nil
	}
	const all, ours = "", v1alpha1.LabelCluster + "=blue"
	wantVersions(t, store)
	wantVersions(t, store)
	want("without a key", all, all)
	other := newStore(t, config)
	if err := other.Create(t.Context(), blue, generate(t, 1)); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 1)
	if err := other.Create(t.Context(), blue, generate(t, 2)); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 1, 2)
	if err := other.Delete(t.Context(), blue, 1); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 2)
	want("with keys", all, ours, ours)
	if err := other.Create(t.Context(), blue, generate(t, 3)); err != nil {
		t.Fatal(err)
	}
	client := newClient(t, config)
	unlabelled := get(t, client, "blue-ksa-signing-key-3")
	delete(unlabelled.Labels, v1alpha1.LabelCluster)
	update(t, client, unlabelled)
	wantVersions(t, store, 2)
	if err := store.Create(t.Context(), blue, generate(t, 3)); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("creating what is there without its label: %v", err)
	}
	if keys, err := store.List(t.Context(), blue); err == nil ||
		!strings.Contains(err.Error(), "its label "+v1alpha1.LabelCluster) {
		t.Errorf("then listing = %v, %v", keys, err)
	}
	if err := store.DeleteAll(t.Context(), blue); err != nil {
		t.Error(err)
	}
	wantVersions(t, other)
}

// testForgotten wants private keys to stay in memory only as long as their Secrets are listed for their cluster.
func testForgotten(t *testing.T, config *rest.Config) {
	store := newStore(t, config)
	want := func(when string, versions ...int) {
		t.Helper()
		if got := store.Remembered(blue); !slices.Equal(got, versions) {
			t.Errorf("%s: versions %v are remembered, want %v", when, got, versions)
		}
	}
	create := func(version int) error { return store.Create(t.Context(), blue, generate(t, version)) }
	if err := errors.Join(create(1), create(2), create(3)); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 1, 2, 3)
	want("listed", 1, 2, 3)
	if err := store.Delete(t.Context(), blue, 1); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 2, 3)
	want("version 1 deleted", 2, 3)
	namesake := blue
	namesake.UID = "another"
	if keys, err := store.List(t.Context(), namesake); !errors.Is(err, keystore.ErrForeign) {
		t.Errorf("listing for another UID = %v, %v, want ErrForeign", keys, err)
	}
	want("the name has another UID")
	wantVersions(t, store, 2, 3)
	if err := store.DeleteAll(t.Context(), blue); err != nil {
		t.Fatal(err)
	}
	want("all deleted")
}

// testReplaced has somebody else replace a Secret that was read, and change one.
func testReplaced(t *testing.T, config *rest.Config) {
	client, store := newClient(t, config), newStore(t, config)
	if err := store.Create(t.Context(), blue, generate(t, 1)); err != nil {
		t.Fatal(err)
	}
	wantVersions(t, store, 1)
	other := newStore(t, config)
	next := generate(t, 1)
	if err := errors.Join(other.Delete(t.Context(), blue, 1), other.Create(t.Context(), blue, next)); err != nil {
		t.Fatal(err)
	}
	if keys, err := store.List(t.Context(), blue); err != nil || len(keys) != 1 || keys[0].KeyID != next.KeyID {
		t.Errorf("listing = %v, %v, want %v", keys, err, next)
	}
	// A Secret that is not immutable is read again when it changes.
	s := get(t, client, raced)
	s.Immutable = nil
	recreate(t, client, s)
	wantVersions(t, store, 1)
	s = get(t, client, raced)
	s.Data["kid"] = []byte("another")
	update(t, client, s)
	if keys, err := store.List(t.Context(), blue); err == nil {
		t.Errorf("listing after the kid was changed = %v, want an error", keys)
	}
}

// testReadRaces has a Secret vanish, and be replaced, between its listing and its reading: what List returns is never a
// mixture of before and after.
func testReadRaces(t *testing.T, config *rest.Config) {
	good := newStore(t, config)
	remove := func() error { return good.Delete(t.Context(), blue, 1) }
	create := func() error { return good.Create(t.Context(), blue, generate(t, 1)) }
	for name, happens := range map[string]func() error{
		"removed":  remove,
		"replaced": func() error { return errors.Join(remove(), create()) },
	} {
		if err := errors.Join(create(), good.Create(t.Context(), blue, generate(t, 2))); err != nil {
			t.Fatal(err)
		}
		racing := newStore(t, kubetest.Inject(config, func(r *http.Request) kubetest.Fault {
			if path.Base(r.URL.Path) == raced {
				if err := happens(); err != nil {
					t.Error(err)
				}
			}
			return kubetest.None
		}))
		if keys, err := racing.List(t.Context(), blue); err == nil || !strings.Contains(err.Error(), raced) {
			t.Errorf("%s: listing = %v, %v, want an error that names the Secret", name, keys, err)
		}
		if err := good.DeleteAll(t.Context(), blue); err != nil {
			t.Fatal(err)
		}
	}
}
