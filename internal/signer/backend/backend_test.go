package backend_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/internal/signer/backend/backendtest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

func newKey(t *testing.T, version int, algorithm string) keydir.Key {
	t.Helper()
	private, err := token.GenerateKey(rand.Reader, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keydir.NewKey(version, private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPEM(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backendtest.Fixture {
		return backendtest.Fixture{
			Backend: backend.PEM{},
			New:     newKey,
			Away:    func(*testing.T) func() { return func() {} }, // it is read once, and cannot go away
			Gone: func(_ *testing.T, k keydir.Key) keydir.Key {
				k.Private = nil
				return k
			},
			Secrets: func(k keydir.Key) []string { return strings.Split(string(k.Private), "\n")[:1] },
		}
	})
}

func TestPEMRefusesOtherKey(t *testing.T) {
	k := newKey(t, 1, jwks.ES256)
	k.Public = newKey(t, 2, jwks.ES256).Public
	if _, err := (backend.PEM{}).Open(k); !errors.Is(err, backend.ErrOtherKey) {
		t.Errorf("%v, want %v", err, backend.ErrOtherKey)
	}
}
