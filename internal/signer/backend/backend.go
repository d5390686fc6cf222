// Package backend opens the private keys in the files of a key directory.
//
// It implements signer.Backend; package hsm does so for keys in hardware. Every implementation passes the conformance
// suite in package backendtest.
package backend

import (
	"bytes"
	"crypto"
	"errors"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

// PEM opens keys whose private key is in a file of the key directory.
type PEM struct{}

// ErrOtherKey is returned for a private key that does not belong to its public key.
var ErrOtherKey = errors.New("the private key does not belong to the public key")

// Open implements signer.Backend.
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

// Same reports whether two public keys are equal.
func Same(a, b crypto.PublicKey) bool {
	x, errX := jwks.MarshalPublicKey(a)
	y, errY := jwks.MarshalPublicKey(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
