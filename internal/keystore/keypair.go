package keystore

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// Generate makes the key pair of a new version. The algorithm is RS256 or ES256. Pass crypto/rand.Reader: see
// token.GenerateKey.
func Generate(rand io.Reader, version int, algorithm string) (KeyPair, error) {
	if algorithm != jwks.RS256 && algorithm != jwks.ES256 {
		return KeyPair{}, fmt.Errorf("generating key version %d: algorithm %q is neither %s nor %s",
			version, algorithm, jwks.RS256, jwks.ES256)
	}
	signer, err := token.GenerateKey(rand, algorithm)
	if err != nil {
		return KeyPair{}, fmt.Errorf("generating key version %d: %w", version, err)
	}
	return New(version, signer)
}

// New returns the key pair of a private key, with the algorithm and the kid that kube-apiserver gives it.
func New(version int, signer crypto.Signer) (KeyPair, error) {
	key, err := jwks.NewKey(signer.Public())
	if err != nil {
		return KeyPair{}, fmt.Errorf("key version %d: %w", version, err)
	}
	k := KeyPair{Version: version, Algorithm: key.Algorithm, KeyID: key.KeyID, Signer: signer}
	return k, k.Validate()
}

// Validate returns an error for an invalid key pair: a version below 1, no key, or an algorithm or kid that does not
// belong to its key. Every Store refuses such a pair.
func (k KeyPair) Validate() error {
	if k.Version < 1 {
		return fmt.Errorf("key version %d is below 1", k.Version)
	}
	if k.Signer == nil {
		return fmt.Errorf("key version %d has no private key", k.Version)
	}
	if err := k.check(); err != nil {
		return fmt.Errorf("key version %d: %w", k.Version, err)
	}
	return nil
}

func (k KeyPair) check() error {
	key, err := jwks.NewKey(k.Signer.Public())
	if err != nil {
		return err
	}
	if k.Algorithm != key.Algorithm {
		return fmt.Errorf("its algorithm is %s, but its key is for %s", k.Algorithm, key.Algorithm)
	}
	if k.KeyID != key.KeyID {
		return errors.New("its kid does not belong to its key")
	}
	return nil
}

// String describes the key pair without its private key.
func (k KeyPair) String() string {
	return fmt.Sprintf("key version %d (%s, kid %s)", k.Version, k.Algorithm, k.KeyID)
}

// GoString returns String.
func (k KeyPair) GoString() string { return k.String() }

// Format writes String for every verb, so that no verb shows the private key.
func (k KeyPair) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue returns the content of String as attributes.
func (k KeyPair) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("version", k.Version), slog.String("algorithm", k.Algorithm), slog.String("keyID", k.KeyID))
}

// MarshalJSON encodes the content of String, so that no encoder writes the private key.
func (k KeyPair) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Version   int    `json:"version"`
		Algorithm string `json:"algorithm"`
		KeyID     string `json:"keyID"`
	}{k.Version, k.Algorithm, k.KeyID})
}
