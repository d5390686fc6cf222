// Package backend opens the private keys of a key directory that are in its files.
//
// It implements the port signer.Backend; package hsm does so for keys in hardware. Every implementation passes the
// conformance suite in package backendtest.
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

// ErrOtherKey is returned for a private key that does not belong to the public key beside it.
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

// Same reports whether two public keys are one.
func Same(a, b crypto.PublicKey) bool {
	x, errX := jwks.MarshalPublicKey(a)
	y, errY := jwks.MarshalPublicKey(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
