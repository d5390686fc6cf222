package jwks

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

const publicKeyBlock = "PUBLIC KEY"

// MarshalPublicKey returns a key as PEM of its PKIX form, which kube-apiserver's --service-account-key-file takes.
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

// ParsePublicKey reads what MarshalPublicKey wrote: exactly one public key in PEM of its PKIX form.
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, fmt.Errorf("reading public key: %w: no PEM block", Malformed)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("reading public key: %w: something follows its PEM block", Malformed)
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, fmt.Errorf("reading public key: %w", PrivateKey)
	case block.Type != publicKeyBlock:
		return nil, fmt.Errorf("reading public key: %w: its PEM block is not of type %s", Malformed, publicKeyBlock)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading public key: %w: not in PKIX form", Malformed)
	}
	if _, err := Algorithm(public); err != nil {
		return nil, fmt.Errorf("reading public key: %w", err)
	}
	return public, nil
}
