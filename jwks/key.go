package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
)

// The signature algorithms (RFC 7518, section 3.1). Each key has exactly one of them.
const (
	RS256 = "RS256" // RSASSA-PKCS1-v1_5 with SHA-256
	ES256 = "ES256" // ECDSA on P-256 with SHA-256
	ES384 = "ES384" // ECDSA on P-384 with SHA-384
)

// Limits of keys.
const (
	// MinRSABits is the shortest RSA modulus accepted (RFC 7518, section 3.3).
	MinRSABits = 2048
	// MaxRSABits is the longest RSA modulus accepted, since the time to verify grows with its square.
	MaxRSABits = 8192
	// MaxKeyID is the longest kid in bytes, the limit that kube-apiserver sets for external signers.
	MaxKeyID = 1024
)

// Key is one verification key.
type Key struct {
	// KeyID is the kid of the tokens that the key verifies.
	KeyID string
	// Algorithm is the only algorithm that the key is used with: RS256, ES256 or ES384.
	Algorithm string
	// Public is an *rsa.PublicKey or an *ecdsa.PublicKey.
	Public crypto.PublicKey
}

// NewKey returns the key with the same kid and algorithm as kube-apiserver gives it.
func NewKey(public crypto.PublicKey) (Key, error) {
	algorithm, err := Algorithm(public)
	if err != nil {
		return Key{}, err
	}
	kid, err := KeyID(public)
	if err != nil {
		return Key{}, err
	}
	return Key{KeyID: kid, Algorithm: algorithm, Public: public}, nil
}

// KeyID returns the kid of a public key as kube-apiserver computes it: the SHA-256 of its PKIX DER form, in base64url
// without padding. See keyIDFromPublicKey in pkg/serviceaccount/jwt.go of Kubernetes.
func KeyID(public crypto.PublicKey) (string, error) {
	if isEmpty(public) {
		return "", fmt.Errorf("computing key ID of %T: %w: it is empty", public, Malformed)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("computing key ID of %T: %w", public, UnsupportedKey)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Algorithm returns the algorithm that kube-apiserver uses with a key: RS256 for RSA, ES256 for P-256 and ES384 for
// P-384. For a key that a Set must not hold, the error wraps WeakKey, UnsupportedKey or Malformed.
func Algorithm(public crypto.PublicKey) (string, error) {
	if isEmpty(public) {
		return "", fmt.Errorf("%w: %T is empty", Malformed, public)
	}
	switch key := public.(type) {
	case *rsa.PublicKey:
		if err := checkRSA(key); err != nil {
			return "", err
		}
		return RS256, nil
	case *ecdsa.PublicKey:
		return algorithmOfPoint(key)
	}
	return "", fmt.Errorf("%w: %T is neither RSA nor ECDSA", UnsupportedKey, public)
}

// isEmpty reports whether a key that did not come from a parser lacks a part, so that its use would panic.
func isEmpty(public crypto.PublicKey) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return key == nil || key.N == nil
	case *ecdsa.PublicKey:
		return key == nil || key.Curve == nil ||
			key.X == nil || key.Y == nil //nolint:staticcheck // a caller may have set none
	}
	return false
}

// algorithmOfPoint checks the curve before the point, since methods of other curves may panic.
func algorithmOfPoint(key *ecdsa.PublicKey) (string, error) {
	algorithm, err := algorithmOfCurve(key.Curve)
	if err != nil {
		return "", err
	}
	if _, err := key.Bytes(); err != nil {
		return "", fmt.Errorf("%w: point is not on its curve", Malformed)
	}
	return algorithm, nil
}

func algorithmOfCurve(curve elliptic.Curve) (string, error) {
	switch curve {
	case elliptic.P256():
		return ES256, nil
	case elliptic.P384():
		return ES384, nil
	}
	return "", fmt.Errorf("%w: curve is neither P-256 nor P-384", UnsupportedKey)
}

func checkRSA(key *rsa.PublicKey) error {
	switch bits := key.N.BitLen(); {
	case bits < MinRSABits:
		return fmt.Errorf("%w: RSA modulus has %d bits, fewer than %d", WeakKey, bits, MinRSABits)
	case bits > MaxRSABits:
		return fmt.Errorf("%w: RSA modulus has %d bits, more than %d", UnsupportedKey, bits, MaxRSABits)
	case key.N.Sign() < 0:
		return fmt.Errorf("%w: RSA modulus is negative", Malformed)
	case key.N.Bit(0) == 0:
		return fmt.Errorf("%w: RSA modulus is even", WeakKey)
	case key.E < 3 || key.E%2 == 0:
		return fmt.Errorf("%w: RSA exponent is even or below 3", WeakKey)
	}
	return nil
}

// check returns an error if the key may not be in a Set.
func (k Key) check() error {
	if k.KeyID == "" || len(k.KeyID) > MaxKeyID {
		return fmt.Errorf("%w: kid is empty or longer than %d bytes", Malformed, MaxKeyID)
	}
	algorithm, err := Algorithm(k.Public)
	if err != nil {
		return err
	}
	if k.Algorithm != algorithm {
		return fmt.Errorf("%w: its algorithm must be %s", UnsupportedKey, algorithm)
	}
	return nil
}
