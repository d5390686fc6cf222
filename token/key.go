package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"

	"github.com/keyturn/keyturn/internal/keyfile"
	"github.com/keyturn/keyturn/jwks"
)

// GenerateKey makes a private key for an algorithm: RSA of 2048 bits for RS256, P-256 for ES256, P-384 for ES384. Pass
// crypto/rand.Reader: since Go 1.26 the standard library uses its own secure source instead of any other.
func GenerateKey(rand io.Reader, alg string) (crypto.Signer, error) {
	switch alg {
	case jwks.RS256:
		return generated(rsa.GenerateKey(rand, jwks.MinRSABits))
	case jwks.ES256:
		return generated(ecdsa.GenerateKey(elliptic.P256(), rand))
	case jwks.ES384:
		return generated(ecdsa.GenerateKey(elliptic.P384(), rand))
	}
	return nil, fmt.Errorf("generating key: no algorithm %q", alg)
}

// generated keeps a nil key from becoming a non-nil crypto.Signer.
func generated[K crypto.Signer](key K, err error) (crypto.Signer, error) {
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}
	return key, nil
}

// MarshalPrivateKey returns a key in PKCS #8 form, PEM encoded, as kube-apiserver's --service-account-signing-key-file
// takes it. It fails for keys that are not in memory, such as those in hardware.
func MarshalPrivateKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding private key: %T has no PKCS #8 form", key)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePrivateKey reads one private key from PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted. It skips the curve that
// openssl writes before a SEC 1 key. The key must be of a kind that GenerateKey makes; RSA keys may have another
// length.
//
// The error explains what data is and how to convert it. It never quotes data.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	var key crypto.Signer
	if block != nil && len(bytes.TrimSpace(rest)) == 0 {
		key = parseBlock(block)
	}
	if key == nil {
		return nil, fmt.Errorf("reading private key: it %w", keyfile.Private(data))
	}
	if _, err := jwks.Algorithm(key.Public()); err != nil {
		return nil, fmt.Errorf("reading private key: %w", err)
	}
	return key, nil
}

// parseBlock returns nil unless the block is an unencrypted private key that can sign. It drops the errors of
// crypto/x509, which may quote bytes of the key.
func parseBlock(block *pem.Block) crypto.Signer {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if signer, signs := key.(crypto.Signer); err == nil && signs {
		return signer
	}
	return nil
}
