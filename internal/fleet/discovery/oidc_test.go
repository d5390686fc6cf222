package discovery_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

const audience = "sts.amazonaws.com"

// website is a directory that a web server serves over TLS, and an issuer below it.
type website struct {
	dir, issuer string
	client      *http.Client
}

func newWebsite(t *testing.T) website {
	dir := t.TempDir()
	srv := httptest.NewTLSServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	return website{dir: dir, issuer: srv.URL + "/clusters/blue", client: srv.Client()}
}

func (w website) bucket(t *testing.T) *discovery.Bucket {
	t.Helper()
	b, err := discovery.New(discovery.Options{
		Cluster: clusterUID, URL: "file://" + w.dir + "?prefix=clusters/blue/", Issuer: w.issuer, MaxAge: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// verifier returns a verifier that fetches the discovery document now, and the JWKS when it needs it.
func (w website) verifier(t *testing.T) (*oidc.IDTokenVerifier, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(context.Background(), w.client), w.issuer)
	if err != nil {
		return nil, err
	}
	return provider.Verifier(&oidc.Config{ClientID: audience}), nil
}

func (w website) token(t *testing.T, k keystore.KeyPair) string {
	t.Helper()
	claims := token.NewBoundClaims(w.issuer, []string{audience}, token.Kubernetes{Namespace: "default"}, time.Now(),
		time.Hour)
	signed, err := token.Sign(rand.Reader, k.Signer, k.Algorithm, k.KeyID, claims)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// accepts reports whether a verifier that knows nothing yet takes a token of the key.
func (w website) accepts(t *testing.T, k keystore.KeyPair) bool {
	t.Helper()
	v, err := w.verifier(t)
	if err != nil {
		return false
	}
	_, err = v.Verify(t.Context(), w.token(t, k))
	return err == nil
}

// TestVerifier takes two rotations, the second to another algorithm, past verifiers that fetch from the issuer's URL.
func TestVerifier(t *testing.T) {
	w := newWebsite(t)
	keys := []keystore.KeyPair{generate(t, 1, jwks.RS256), generate(t, 2, jwks.RS256), generate(t, 3, jwks.ES256)}
	b := w.bucket(t)
	for _, to := range [][]int{nil, {1}, {1, 2}, {2}, {2, 3}, {3}} {
		if len(to) > 0 {
			publishOf(t, b, keys, to...)
		}
		for _, k := range keys {
			if got, want := w.accepts(t, k), slices.Contains(to, k.Version); got != want {
				t.Errorf("with %v published, a token of key version %d is accepted: %v", to, k.Version, got)
			}
		}
	}
	if err := b.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.accepts(t, keys[2]) {
		t.Error("a token is accepted after Remove")
	}
}

// TestOldVerifier has a verifier that never fetches the discovery document again, and the JWKS when it meets a new kid.
func TestOldVerifier(t *testing.T) {
	w := newWebsite(t)
	one, two := generate(t, 1, jwks.RS256), generate(t, 2, jwks.RS256)
	b := w.bucket(t)
	publish(t, b, one)
	v, err := w.verifier(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]keystore.KeyPair{{one}, {one, two}, {two}} {
		publishOf(t, b, []keystore.KeyPair{one, two}, versionsOf(keys)...)
		for _, k := range keys {
			if _, err := v.Verify(t.Context(), w.token(t, k)); err != nil {
				t.Errorf("with %v published: token of key version %d: %v", keys, k.Version, err)
			}
		}
	}
}

// TestVerifierMeanwhile verifies tokens all the time while keys are published. A key's tokens are good from when it is
// published until a Publish without it begins.
func TestVerifierMeanwhile(t *testing.T) {
	w := newWebsite(t)
	b := w.bucket(t)
	old := generate(t, 1, jwks.RS256)
	publish(t, b, old)
	for version := 2; version < 12; version++ {
		algorithm := []string{jwks.RS256, jwks.ES256}[version%2]
		next := generate(t, version, algorithm)
		meanwhile(t, func() { publish(t, b, old, next) }, func() bool { return w.accepts(t, old) })
		meanwhile(t, func() { publishOf(t, b, []keystore.KeyPair{old, next}, version) },
			func() bool { return w.accepts(t, next) })
		old = next
	}
}

// meanwhile wants something to be so again and again while do runs, at least once before and once after.
func meanwhile(t *testing.T, do func(), so func() bool) {
	t.Helper()
	begun, done := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for round := 0; ; round++ {
			last := false
			select {
			case <-done:
				last = true
			default:
			}
			if !so() {
				t.Errorf("it is not so in round %d", round)
			}
			if round == 0 {
				close(begun)
			}
			if last {
				return
			}
		}
	})
	<-begun
	do()
	close(done)
	wg.Wait()
}
