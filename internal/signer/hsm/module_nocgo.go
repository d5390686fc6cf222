//go:build !cgo

package hsm

import (
	"crypto"

	"github.com/keyturn/keyturn/signer/keydir"
)

// Module is a PKCS #11 library, which this build cannot load.
type Module struct{}

// New returns a module that opens nothing.
func New(string) *Module { return &Module{} }

// Open returns ErrNotBuilt.
func (*Module) Open(keydir.Key) (crypto.Signer, error) { return nil, ErrNotBuilt }

// Generate returns ErrNotBuilt.
func (*Module) Generate(string, keydir.Secret, string) (crypto.PublicKey, error) {
	return nil, ErrNotBuilt
}

// Destroy returns ErrNotBuilt.
func (*Module) Destroy(string, keydir.Secret) error { return ErrNotBuilt }

// Close does nothing.
func (*Module) Close() error { return nil }
