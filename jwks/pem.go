package jwks

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/keyturn/keyturn/internal/keyfile"
)

const publicKeyBlock = "PUBLIC KEY"

// MarshalPublicKey returns a key in PKIX form, PEM encoded, as kube-apiserver's --service-account-key-file takes it.
func MarshalPublicKey(public crypto.PublicKey) ([]byte, error) {
	if _, err := Algorithm(public); err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", UnsupportedKey)
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicKeyBlock, Bytes: der}), nil
}

// ParsePublicKey reads exactly one PEM public key in PKIX form, as MarshalPublicKey writes it.
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(data)
	if block != nil && strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, fmt.Errorf("reading public key: %w: it %w", PrivateKey, keyfile.Public(data))
	}
	if block == nil || block.Type != publicKeyBlock || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("reading public key: %w: it %w", Malformed, keyfile.Public(data))
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading public key: %w: it %w", Malformed, keyfile.Public(data))
	}
	if _, err := Algorithm(public); err != nil {
		return nil, fmt.Errorf("reading public key: %w", err)
	}
	return public, nil
}
