// Package keystoretest has the conformance suite of keystore.Store, and stores for the tests of its callers.
//
// Run tests the contract. Memory is a store in memory; Faulty makes the writes of any store fail in both ways in which
// a write can fail.
package keystoretest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// NewStore makes an empty store for one test, in which clusters of these namespaces can be stored.
type NewStore func(t *testing.T, namespaces ...string) keystore.Store

// Run runs the suite. Each test has its own store and namespaces.
func Run(t *testing.T, newStore NewStore) {
	tests := map[string]func(*testing.T, fixture){
		"Empty":        testEmpty,
		"ReadBack":     testReadBack,
		"Order":        testOrder,
		"NoOverwrite":  testNoOverwrite,
		"OneCreator":   testOneCreator,
		"Delete":       testDelete,
		"DeleteAll":    testDeleteAll,
		"Forget":       testForget,
		"Isolation":    testIsolation,
		"Namesake":     testNamesake,
		"Invalid":      testInvalid,
		"Cancelled":    testCancelled,
		"FailedCreate": testFailedCreate,
		"FailedDelete": testFailedDelete,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := "keys-" + strings.ToLower(rand.Text())
			b := "keys-" + strings.ToLower(rand.Text())
			test(t, fixture{store: newStore(t, a, b), c: keystore.Cluster{Namespace: a, Name: "blue", UID: "1-2"}, other: b})
		})
	}
}

type fixture struct {
	store keystore.Store
	c     keystore.Cluster
	other string // another namespace
}

func testEmpty(t *testing.T, f fixture) {
	wantVersions(t, f.store, f.c)
}

func testReadBack(t *testing.T, f fixture) {
	before := time.Now().Add(-2 * time.Second) // a store may cut off the fraction of a second
	first, second := generate(t, 1, jwks.ES256), generate(t, 2, jwks.RS256)
	create(t, f.store, f.c, first)
	create(t, f.store, f.c, second)
	for i, k := range list(t, f.store, f.c) {
		wantSame(t, k, []keystore.KeyPair{first, second}[i])
		if k.CreatedAt.Before(before) || k.CreatedAt.After(time.Now().Add(2*time.Second)) {
			t.Errorf("%v was created at %v, want about now", k, k.CreatedAt)
		}
	}
	wantVersions(t, f.store, f.c, 1, 2)
}

func testOrder(t *testing.T, f fixture) {
	for _, version := range []int{10, 9, 100, 1} {
		create(t, f.store, f.c, generate(t, version, jwks.ES256))
	}
	wantVersions(t, f.store, f.c, 1, 9, 10, 100)
}

func testNoOverwrite(t *testing.T, f fixture) {
	stored := generate(t, 1, jwks.ES256)
	create(t, f.store, f.c, stored)
	for name, k := range map[string]keystore.KeyPair{"another key": generate(t, 1, jwks.ES256), "the same key": stored} {
		err := f.store.Create(t.Context(), f.c, k)
		if !errors.Is(err, keystore.ErrExists) || errors.Is(err, keystore.ErrAmbiguous) {
			t.Errorf("creating version 1 again with %s: %v, want ErrExists alone", name, err)
		}
	}
	wantSame(t, list(t, f.store, f.c)[0], stored)
}

// testOneCreator uses several creators of one version: one of them must win, and its key be the stored one.
func testOneCreator(t *testing.T, f fixture) {
	const creators = 8
	keys := make([]keystore.KeyPair, creators)
	errs := make([]error, creators)
	var wg sync.WaitGroup
	for i := range creators {
		keys[i] = generate(t, 1, jwks.ES256)
		wg.Go(func() { errs[i] = f.store.Create(t.Context(), f.c, keys[i]) })
	}
	wg.Wait()
	winner := slices.Index(errs, nil)
	if winner < 0 {
		t.Fatalf("no creator won: %v", errs)
	}
	for i, err := range errs {
		if i != winner && !errors.Is(err, keystore.ErrExists) {
			t.Errorf("creator %d: %v, want ErrExists, for creator %d won", i, err, winner)
		}
	}
	wantSame(t, list(t, f.store, f.c)[0], keys[winner])
}

func testDelete(t *testing.T, f fixture) {
	first := generate(t, 1, jwks.ES256)
	create(t, f.store, f.c, first)
	create(t, f.store, f.c, generate(t, 2, jwks.ES256))
	for range 2 { // the second time it is not there any more
		remove(t, f.store, f.c, 2)
		wantVersions(t, f.store, f.c, 1)
	}
	remove(t, f.store, f.c, 3)
	wantSame(t, list(t, f.store, f.c)[0], first)
	again := generate(t, 2, jwks.ES256)
	create(t, f.store, f.c, again)
	wantSame(t, list(t, f.store, f.c)[1], again)
}

func testIsolation(t *testing.T, f fixture) {
	clusters := []keystore.Cluster{
		f.c,
		{Namespace: f.other, Name: f.c.Name, UID: "3"},
		{Namespace: f.c.Namespace, Name: "blue-ksa-signing-key-1", UID: "4"},
		{Namespace: f.c.Namespace, Name: "deep-blue", UID: "5"},
	}
	keys := make([]keystore.KeyPair, len(clusters))
	for i, c := range clusters {
		keys[i] = generate(t, 1, jwks.ES256)
		create(t, f.store, c, keys[i])
	}
	for i, c := range clusters {
		wantVersions(t, f.store, c, 1)
		wantSame(t, list(t, f.store, c)[0], keys[i])
	}
	remove(t, f.store, clusters[0], 1)
	removeAll(t, f.store, clusters[0])
	wantVersions(t, f.store, clusters[0])
	for _, c := range clusters[1:] {
		wantVersions(t, f.store, c, 1)
	}
}

func testDeleteAll(t *testing.T, f fixture) {
	for _, version := range []int{1, 2, 7} {
		create(t, f.store, f.c, generate(t, version, jwks.ES256))
	}
	for range 2 { // the second time there is none any more
		removeAll(t, f.store, f.c)
		wantVersions(t, f.store, f.c)
	}
}

// testForget forgets a cluster by name, before and after its keys are read: they must stay.
func testForget(t *testing.T, f fixture) {
	k := generate(t, 1, jwks.ES256)
	create(t, f.store, f.c, k)
	for range 2 {
		f.store.Forget(keystore.Cluster{Namespace: f.c.Namespace, Name: f.c.Name})
		wantSame(t, list(t, f.store, f.c)[0], k)
	}
}

// testNamesake uses a cluster with the name of an earlier one, some of whose keys are left.
func testNamesake(t *testing.T, f fixture) {
	left := generate(t, 2, jwks.ES256)
	create(t, f.store, f.c, left)
	namesake := f.c
	namesake.UID = "another"
	if keys, err := f.store.List(t.Context(), namesake); !errors.Is(err, keystore.ErrForeign) || len(keys) > 0 {
		t.Errorf("listing = %v, %v, want ErrForeign and no key", keys, err)
	}
	if err := f.store.Create(t.Context(), namesake, generate(t, 2, jwks.ES256)); !errors.Is(err, keystore.ErrForeign) {
		t.Errorf("creating version 2: %v, want ErrForeign", err)
	}
	create(t, f.store, namesake, generate(t, 3, jwks.ES256))
	if err := f.store.Delete(t.Context(), namesake, 2); !errors.Is(err, keystore.ErrForeign) {
		t.Errorf("deleting version 2: %v, want ErrForeign", err)
	}
	removeAll(t, f.store, namesake)
	wantVersions(t, f.store, f.c, 2)
	wantSame(t, list(t, f.store, f.c)[0], left)
}

func testInvalid(t *testing.T, f fixture) {
	good, other := generate(t, 1, jwks.ES256), generate(t, 1, jwks.ES256)
	tests := map[string]func(k *keystore.KeyPair){
		"version 0":         func(k *keystore.KeyPair) { k.Version = 0 },
		"no key":            func(k *keystore.KeyPair) { k.Signer = nil },
		"another kid":       func(k *keystore.KeyPair) { k.KeyID = other.KeyID },
		"another algorithm": func(k *keystore.KeyPair) { k.Algorithm = jwks.RS256 },
		"no algorithm":      func(k *keystore.KeyPair) { k.Algorithm = "" },
	}
	for name, spoil := range tests {
		k := good
		spoil(&k)
		if err := f.store.Create(t.Context(), f.c, k); err == nil {
			t.Errorf("a key pair with %s was stored", name)
		}
	}
	anonymous := keystore.Cluster{Namespace: f.c.Namespace, Name: f.c.Name}
	if err := f.store.Create(t.Context(), anonymous, good); err == nil {
		t.Error("a key pair of a cluster without a UID was stored")
	}
	wantVersions(t, f.store, f.c)
}

func testCancelled(t *testing.T, f fixture) {
	create(t, f.store, f.c, generate(t, 1, jwks.ES256))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if keys, err := f.store.List(ctx, f.c); err == nil {
		t.Errorf("listing after the end of its context: %v, want an error", keys)
	}
	if err := f.store.Create(ctx, f.c, generate(t, 2, jwks.ES256)); err == nil {
		t.Error("creating after the end of its context: no error")
	}
	if err := f.store.Delete(ctx, f.c, 1); err == nil {
		t.Error("deleting after the end of its context: no error")
	}
	if err := f.store.DeleteAll(ctx, f.c); err == nil {
		t.Error("deleting all after the end of its context: no error")
	}
	wantVersions(t, f.store, f.c, 1)
}

// testFailedCreate shows how a caller handles a failed write: it reads, and creates only what does not exist.
func testFailedCreate(t *testing.T, f fixture) {
	for version, fault := range []faults.Fault{faults.Failed, faults.FailedButPersisted} {
		version++
		store := &Faulty{Store: f.store}
		store.Fail(fault)
		k := generate(t, version, jwks.ES256)
		if err := store.Create(t.Context(), f.c, k); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Fatalf("creating version %d: %v, want ErrAmbiguous", version, err)
		}
		if len(list(t, store, f.c)) < version {
			create(t, store, f.c, k)
		}
		wantSame(t, list(t, store, f.c)[version-1], k)
	}
	wantVersions(t, f.store, f.c, 1, 2)
}

func testFailedDelete(t *testing.T, f fixture) {
	store := &Faulty{Store: f.store}
	for _, fault := range []faults.Fault{faults.Failed, faults.FailedButPersisted} {
		create(t, store, f.c, generate(t, 1, jwks.ES256))
		store.Fail(fault)
		if err := store.Delete(t.Context(), f.c, 1); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Fatalf("deleting version 1: %v, want ErrAmbiguous", err)
		}
		remove(t, store, f.c, 1)
		wantVersions(t, store, f.c)
	}
	for _, fault := range []faults.Fault{faults.Failed, faults.FailedButPersisted} {
		create(t, store, f.c, generate(t, 1, jwks.ES256))
		store.Fail(fault)
		if err := store.DeleteAll(t.Context(), f.c); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Fatalf("deleting all: %v, want ErrAmbiguous", err)
		}
		removeAll(t, store, f.c)
		wantVersions(t, store, f.c)
	}
}

func generate(t *testing.T, version int, algorithm string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func create(t *testing.T, s keystore.Store, c keystore.Cluster, k keystore.KeyPair) {
	t.Helper()
	if err := s.Create(t.Context(), c, k); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s keystore.Store, c keystore.Cluster, version int) {
	t.Helper()
	if err := s.Delete(t.Context(), c, version); err != nil {
		t.Fatal(err)
	}
}

func removeAll(t *testing.T, s keystore.Store, c keystore.Cluster) {
	t.Helper()
	if err := s.DeleteAll(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, s keystore.Store, c keystore.Cluster) []keystore.KeyPair {
	t.Helper()
	keys, err := s.List(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func wantVersions(t *testing.T, s keystore.Store, c keystore.Cluster, want ...int) {
	t.Helper()
	var got []int
	for _, k := range list(t, s, c) {
		got = append(got, k.Version)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("versions of %v = %v, want %v", c, got, want)
	}
}

// wantSame compares two key pairs, and verifies with one what the other signs.
func wantSame(t *testing.T, got, want keystore.KeyPair) {
	t.Helper()
	if got.String() != want.String() {
		t.Fatalf("got %v, want %v", got, want)
	}
	signed, err := token.Sign(rand.Reader, got.Signer, got.Algorithm, got.KeyID, token.NewLegacyClaims(token.Legacy{
		Namespace: "n", SecretName: "s", ServiceAccountName: "a", ServiceAccountUID: "u",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(signed, want); err != nil {
		t.Errorf("%v does not verify what the stored key signed: %v", want, err)
	}
	if sha256.Sum256(privatePEM(t, got)) != sha256.Sum256(privatePEM(t, want)) {
		t.Errorf("%v: the stored private key is another one", want)
	}
}

func verify(signed string, k keystore.KeyPair) error {
	key, err := jwks.NewKey(k.Signer.Public())
	if err != nil {
		return err
	}
	set, err := jwks.NewSet(key)
	if err != nil {
		return err
	}
	_, err = token.Verify(signed, set, token.Expect{Now: time.Now(), Issuer: token.LegacyIssuer})
	return err
}

func privatePEM(t *testing.T, k keystore.KeyPair) []byte {
	t.Helper()
	data, err := token.MarshalPrivateKey(k.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
