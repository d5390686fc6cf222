// Package backendtest is the conformance suite of signer.Backend.
package backendtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer"
	"github.com/keyturn/keyturn/signer/keydir"
)

// Fixture is a backend and the store of its private keys.
type Fixture struct {
	Backend signer.Backend
	// New makes a key pair for an algorithm, and returns it as if read from a key directory.
	New func(t *testing.T, version int, algorithm string) keydir.Key
	// Away makes the store unreachable. back restores it.
	Away func(t *testing.T) (back func())
	// Gone destroys the private key of a key.
	Gone func(t *testing.T, k keydir.Key) keydir.Key
	// Secrets are what no error may contain.
	Secrets func(k keydir.Key) []string
}

// Run runs the suite. Each test gets its own fixture.
func Run(t *testing.T, newFixture func(t *testing.T) Fixture) {
	for name, test := range map[string]func(*testing.T, Fixture){
		"Signs":       testSigns,
		"Concurrent":  testConcurrent,
		"AwayAndBack": testAwayAndBack,
		"Gone":        testGone,
		"Refuses":     testRefuses,
	} {
		t.Run(name, func(t *testing.T) { test(t, newFixture(t)) })
	}
}

// algorithms are the algorithms that a signer must support.
var algorithms = []string{jwks.RS256, jwks.ES256, jwks.ES384}

func testSigns(t *testing.T, f Fixture) {
	for i, algorithm := range algorithms {
		k := f.New(t, i+1, algorithm)
		if got, err := jwks.Algorithm(k.Public); err != nil || got != algorithm {
			t.Fatalf("the fixture made a key for %q, not %s: %v", got, algorithm, err)
		}
		s := open(t, f, k)
		if !backend.Same(s.Public(), k.Public) {
			t.Errorf("%s: Public is another key", algorithm)
		}
		for range 5 {
			if err := sign(s, k); err != nil {
				t.Errorf("%s: %v", algorithm, err)
			}
		}
	}
}

func testConcurrent(t *testing.T, f Fixture) {
	keys := []keydir.Key{f.New(t, 1, jwks.ES256), f.New(t, 2, jwks.ES384), f.New(t, 3, jwks.ES256)}
	var work sync.WaitGroup
	for i := range 12 {
		k := keys[i%len(keys)]
		work.Go(func() {
			s, err := f.Backend.Open(k)
			for range 20 {
				if err == nil {
					err = sign(s, k)
				}
			}
			if err != nil {
				t.Errorf("key version %d: %v", k.Version, err)
			}
		})
	}
	work.Wait()
}

// testAwayAndBack uses the signers constantly. While the store is away they may only fail; afterwards they must work
// again.
func testAwayAndBack(t *testing.T, f Fixture) {
	a, b := f.New(t, 1, jwks.ES256), f.New(t, 2, jwks.RS256)
	keys := map[*keydir.Key]crypto.Signer{&a: open(t, f, a), &b: open(t, f, b)}
	stop := make(chan struct{})
	var work sync.WaitGroup
	for k, s := range keys {
		for range 4 {
			work.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						checkSilent(t, f, *k, sign(s, *k))
					}
				}
			})
		}
	}
	for range 2 {
		back := f.Away(t)
		for k, s := range keys {
			checkSilent(t, f, *k, sign(s, *k))
		}
		back()
		for k, s := range keys {
			eventuallySigns(t, s, *k)
		}
	}
	close(stop)
	work.Wait()
	for k, s := range keys {
		eventuallySigns(t, s, *k)
	}
}

// testGone opens a key whose private key was destroyed. It must fail, in Open or in Sign.
func testGone(t *testing.T, f Fixture) {
	k := f.New(t, 1, jwks.ES256)
	other := f.New(t, 2, jwks.ES256)
	if err := sign(open(t, f, k), k); err != nil {
		t.Fatal(err)
	}
	gone := f.Gone(t, k)
	s, err := f.Backend.Open(gone)
	if err == nil {
		err = sign(s, gone)
	}
	if err == nil {
		t.Error("a key that is gone signs")
	}
	checkSilent(t, f, k, err)
	eventuallySigns(t, open(t, f, other), other)
}

// testRefuses requests signatures that a backend must not make.
func testRefuses(t *testing.T, f Fixture) {
	k := f.New(t, 1, jwks.RS256)
	s := open(t, f, k)
	short := make([]byte, 20)
	if _, err := s.Sign(rand.Reader, short, crypto.SHA256); err == nil {
		t.Error("a digest that is not of its hash function was signed")
	}
}

func open(t *testing.T, f Fixture, k keydir.Key) crypto.Signer {
	t.Helper()
	s, err := f.Backend.Open(k)
	if err != nil {
		t.Fatalf("opening key version %d: %v", k.Version, err)
	}
	return s
}

// sign signs a new message, and verifies it with the public key of the key directory.
func sign(s crypto.Signer, k keydir.Key) error {
	algorithm, err := jwks.Algorithm(k.Public)
	if err != nil {
		return err
	}
	hash := crypto.SHA256
	if algorithm == jwks.ES384 {
		hash = crypto.SHA384
	}
	h := hash.New()
	h.Write([]byte(rand.Text()))
	digest := h.Sum(nil)
	signature, err := s.Sign(rand.Reader, digest, hash)
	if err != nil {
		return err
	}
	switch public := k.Public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, hash, digest, signature)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(public, digest, signature) {
			return nil
		}
	}
	return backend.ErrOtherKey
}

// patience is how long a key may take to work again.
const patience = 30 * time.Second

func eventuallySigns(t *testing.T, s crypto.Signer, k keydir.Key) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := sign(s, k)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("key version %d does not come back: %v", k.Version, err)
		}
	}
}

// checkSilent fails the test if an error contains a secret, or a signature was wrong.
func checkSilent(t *testing.T, f Fixture, k keydir.Key, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range f.Secrets(k) {
		if strings.Contains(err.Error(), secret) {
			t.Error("an error holds a secret")
		}
	}
	if err == backend.ErrOtherKey { //nolint:errorlint // it is what sign returns itself
		t.Error("a signature does not verify")
	}
}
