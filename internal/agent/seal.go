package agent

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// ErrCannotOpen means that an order is sealed for another start of the agent's pod, or for another pod. Read the pod's
// status again.
var ErrCannotOpen = errors.New("the order cannot be opened: it is for another start of this pod")

// Instance is one start of an agent's pod. Its public key names the start: the init container makes another one each
// time.
type Instance struct {
	PodUID    string    `json:"podUID"`
	PublicKey PublicKey `json:"publicKey"`
}

// PublicKey is an X25519 public key in base64.
type PublicKey string

// PrivateKey is an X25519 private key. Formatting and encoding do not show it.
type PrivateKey struct{ key hpke.PrivateKey }

// The suite of HPKE (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
var (
	kem  = hpke.DHKEM(ecdh.X25519())
	kdf  = hpke.HKDFSHA256()
	aead = hpke.AES256GCM()
)

// NewPrivateKey makes a private key.
func NewPrivateKey() (PrivateKey, error) {
	k, err := kem.GenerateKey()
	if err != nil {
		return PrivateKey{}, fmt.Errorf("making an X25519 key: %w", err)
	}
	return PrivateKey{k}, nil
}

// Public returns its public key.
func (k PrivateKey) Public() PublicKey {
	return PublicKey(base64.StdEncoding.EncodeToString(k.key.PublicKey().Bytes()))
}

// Format prints no private key for any verb.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[private key]") }

// MarshalText shows no private key.
func (PrivateKey) MarshalText() ([]byte, error) { return []byte("[private key]"), nil }

// Write writes the private key to a file of mode 0600.
func (k PrivateKey) Write(path string) error {
	raw, err := k.key.Bytes()
	if err != nil {
		return fmt.Errorf("writing %s: no bytes of the key", path)
	}
	defer clear(raw)
	return atomicfile.Write(path, raw)
}

// ReadPrivateKey reads what Write wrote.
func ReadPrivateKey(path string) (PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading the agent's key: %w", err)
	}
	defer clear(raw)
	k, err := kem.NewPrivateKey(raw)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading the agent's key: %s does not hold one", path)
	}
	return PrivateKey{k}, nil
}

// Seal seals the private key of a key version, in PEM, to one start of an agent's pod.
func Seal(private []byte, i Instance, cluster string, version int) ([]byte, error) {
	return seal(i.PublicKey, info(i, cluster, version), private)
}

// Open opens what Seal sealed to this key; ErrCannotOpen when it was to another one, or with other words.
func (k PrivateKey) Open(sealed []byte, i Instance, cluster string, version int) ([]byte, error) {
	return k.open(sealed, info(i, cluster, version))
}

// sealSent and OpenSent are for a private key on its way from a node to a controller.
func sealSent(private []byte, to PublicKey, cluster string) ([]byte, error) {
	return seal(to, "keyturn agent sends "+cluster, private)
}

// OpenSent opens Report.Sealed, which was sealed to this key.
func (k PrivateKey) OpenSent(sealed []byte, cluster string) ([]byte, error) {
	return k.open(sealed, "keyturn agent sends "+cluster)
}

// info binds what is sealed to its use, so that it opens nowhere else.
func info(i Instance, cluster string, version int) string {
	return fmt.Sprintf("keyturn agent receives key version %d of %s in pod %s", version, cluster, i.PodUID)
}

func seal(to PublicKey, info string, text []byte) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(string(to))
	if err != nil {
		return nil, errors.New("sealing a private key: the recipient's key is not in base64")
	}
	public, err := kem.NewPublicKey(raw)
	if err != nil {
		return nil, errors.New("sealing a private key: the recipient's key is no X25519 key")
	}
	sealed, err := hpke.Seal(public, kdf, aead, []byte(info), text)
	if err != nil {
		return nil, fmt.Errorf("sealing a private key: %w", err)
	}
	return sealed, nil
}

func (k PrivateKey) open(sealed []byte, info string) ([]byte, error) {
	text, err := hpke.Open(k.key, kdf, aead, []byte(info), sealed)
	if err != nil {
		return nil, ErrCannotOpen // what HPKE says of it helps nobody
	}
	return text, nil
}
