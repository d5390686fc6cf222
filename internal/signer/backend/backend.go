// Package backend opens the private keys of a key directory, wherever they are.
//
// Backend is the port. PEM opens keys in files; package hsm those in hardware. Every backend passes the conformance
// suite in package backendtest.
package backend

import (
	"bytes"
	"crypto"
	"errors"

	"github.com/keyturn/keyturn/internal/signer/keydir"
	"github.com/keyturn/keyturn/jwks"
)

// Backend opens private keys.
type Backend interface {
	// Open returns the private key of k, for use by several goroutines at once, and after k was wiped. It fails if k
	// can never be opened. A key that is out of reach at the moment is no such failure: its Sign fails, soon, and works
	// again once the key is back. Public of what it returns is the public key of k. No error holds anything of a
	// private key or a PIN.
	Open(k keydir.Key) (crypto.Signer, error)
}

// PEM opens keys whose private key is in a file of the key directory.
type PEM struct{}

var _ Backend = PEM{}

// ErrOtherKey is returned for a private key that does not belong to the public key beside it.
var ErrOtherKey = errors.New("the private key does not belong to the public key")

// Open implements Backend.
func (PEM) Open(k keydir.Key) (crypto.Signer, error) {
	signer, err := k.Signer()
	if err != nil {
		return nil, err
	}
	if !Same(signer.Public(), k.Public) {
		return nil, ErrOtherKey
	}
	return signer, nil
}

// Same reports whether two public keys are one.
func Same(a, b crypto.PublicKey) bool {
	x, errX := jwks.MarshalPublicKey(a)
	y, errY := jwks.MarshalPublicKey(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
