// Package keydir reads, writes and watches the directory that holds the keys of package signer, and so of
// keyturn-signer.
//
// To provide keys, start with NewKey and Write. Read returns what Write wrote.
//
// # Format
//
// The directory holds a manifest, keys.json, and next to it the files that the manifest names:
//
//	{
//	  "signingVersion": 2,
//	  "refreshHintSeconds": 3600,
//	  "rotationRefreshHintSeconds": 5,
//	  "leadInSeconds": 0,
//	  "maxTokenExpirationSeconds": 31536000,
//	  "keys": [
//	    {"version": 1, "public": "1.pub", "private": "1.key"},
//	    {"version": 2, "public": "2.pub", "pkcs11": "pkcs11:token=keyturn;object=ksa-2?pin-source=hsm.pin"},
//	    {"version": 3, "public": "3.pub", "verifyOnly": true, "excludeFromOIDCDiscovery": true}
//	  ]
//	}
//
// signingVersion is the key that should sign. The other keys verify. One of them with a private key that is not
// verifyOnly goes on signing until that key may. A public key is PEM in PKIX form. A private key is either PEM in a
// file, or a key of a PKCS #11 token, named by its URI (see below). refreshHintSeconds is how often the API server
// fetches the keys. While its discovery document has several keys, it gets rotationRefreshHintSeconds instead (default:
// the same, at most 5). leadInSeconds is how long a key must have been served before it signs (default: 0; see package
// signer). maxTokenExpirationSeconds is the longest life of a token that the API server requests (at least 600).
//
// A PKCS #11 URI (RFC 7512) has the attributes token, and object or id or both. The attributes serial, manufacturer and
// model may select the token further. pin-source names a file of the directory that holds the PIN. Other attributes are
// refused.
//
// Decoding is strict: an unknown, duplicate or null member is an error, and so is a file name with a slash.
//
// # Replacing it
//
// Read returns one version of the directory as a whole, however it is replaced: by the symbolic link ..data, as
// Kubernetes does in Secret volumes and Write does too; by a symbolic link in place of the directory; or by renaming
// another directory over it. Do not change files in place: Read may then see some of them old and some new.
//
// # Who may write and read it
//
// Whoever can write a public key there can forge tokens. So Read refuses files and directories that group or others can
// write, or whose owner is neither root nor the reader. It also refuses private keys and PINs that group or others can
// read. In a Secret volume, set defaultMode 0400 and no fsGroup.
package keydir

import (
	"bytes"
	"crypto"
	"fmt"
	"io"
	"time"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// ManifestName is the file that lists the keys.
const ManifestName = "keys.json"

// Set is the content of a directory.
type Set struct {
	// SigningVersion is the version of the key that should sign.
	SigningVersion int
	// RefreshHint is how often the API server fetches the keys: whole seconds, at least 1.
	RefreshHint time.Duration
	// RotationRefreshHint is the hint while a rotation runs: whole seconds, at least 1.
	RotationRefreshHint time.Duration
	// LeadIn is how long a key must have been served before it signs: whole seconds.
	LeadIn time.Duration
	// MaxTokenExpiration is the longest life of a token: whole seconds, at least 600.
	MaxTokenExpiration time.Duration
	// Keys are in ascending order of version.
	Keys []Key
}

// Key is one key of a set. It may hold a private key, which formatting and encoding do not show.
type Key struct {
	// Version counts from 1.
	Version int
	// Public is the verification key.
	Public crypto.PublicKey
	// Private is the private key in PEM; empty if there is none, or if it is in a PKCS #11 token.
	Private Secret
	// PKCS11 is the URI (RFC 7512) of a private key in a PKCS #11 token; empty for other keys.
	PKCS11 string
	// PIN opens the token; empty if the URI names none.
	PIN Secret
	// VerifyOnly forbids signing with the key.
	VerifyOnly bool
	// ExcludeFromOIDCDiscovery keeps the key out of the API server's JWKS. Such a key is VerifyOnly.
	ExcludeFromOIDCDiscovery bool

	// signer is the parsed form of Private, or what Private was encoded from; nil if there is neither.
	signer crypto.Signer
}

// Wipe overwrites the private keys in PEM and the PINs. What Signer returned stays usable.
func (s Set) Wipe() {
	for _, k := range s.Keys {
		clear(k.Private)
		clear(k.PIN)
	}
}

// Signer returns the private key that Private holds. For a key from Read, it is already parsed.
func (k Key) Signer() (crypto.Signer, error) {
	if k.signer != nil && len(k.Private) > 0 {
		return k.signer, nil
	}
	return token.ParsePrivateKey(k.Private)
}

// CanSign reports whether the key has a private key and may sign.
func (k Key) CanSign() bool { return (len(k.Private) > 0 || k.PKCS11 != "") && !k.VerifyOnly }

// NewKey returns a key whose private key is in memory.
func NewKey(version int, private crypto.Signer) (Key, error) {
	pem, err := token.MarshalPrivateKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("key version %d: %w", version, err)
	}
	return Key{Version: version, Public: private.Public(), Private: pem, signer: private}, nil
}

// Secret is a private key or a PIN.
type Secret []byte

const redacted = "[secret]"

// String does not show the secret.
func (Secret) String() string { return redacted }

// Format does not show the secret, with any verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText does not show the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// The limits of a set.
const (
	minTokenExpiration = 600 * time.Second
	maxHint            = 24 * time.Hour
	maxExpiration      = 100 * 365 * 24 * time.Hour
	maxKeys            = 100 // more than verifiers outside the cluster accept
	// DefaultRotationRefreshHint is the hint while a rotation runs, unless RefreshHint is shorter.
	DefaultRotationRefreshHint = 5 * time.Second
)

// Validate returns an error if the set is invalid. Read returns, and Write accepts, only valid sets.
func (s Set) Validate() error {
	for _, b := range []struct {
		member   string
		value    time.Duration
		min, max time.Duration
	}{
		{"refreshHintSeconds", s.RefreshHint, time.Second, maxHint},
		{"rotationRefreshHintSeconds", s.RotationRefreshHint, time.Second, maxHint},
		{"leadInSeconds", s.LeadIn, 0, maxHint},
		{"maxTokenExpirationSeconds", s.MaxTokenExpiration, minTokenExpiration, maxExpiration},
	} {
		if b.value < b.min || b.value > b.max || b.value%time.Second != 0 {
			return fmt.Errorf("%s must be whole seconds from %d to %d", b.member, b.min/time.Second, b.max/time.Second)
		}
	}
	return s.validateKeys()
}

func (s Set) validateKeys() error {
	if len(s.Keys) == 0 || len(s.Keys) > maxKeys {
		return fmt.Errorf("there must be 1 to %d keys", maxKeys)
	}
	last, signs := 0, false
	kids := map[string]int{}
	for _, k := range s.Keys {
		if k.Version <= last {
			return fmt.Errorf("key version %d: versions must ascend from 1, each once", k.Version)
		}
		kid, err := k.validate()
		if err != nil {
			return fmt.Errorf("key version %d: %w", k.Version, err)
		}
		if other, ok := kids[kid]; ok {
			return fmt.Errorf("key version %d: it is the same key as version %d", k.Version, other)
		}
		last, kids[kid] = k.Version, k.Version
		signs = signs || k.Version == s.SigningVersion && k.CanSign()
	}
	if !signs {
		return fmt.Errorf("signingVersion is %d, and no key of that version has a private key and may sign", s.SigningVersion)
	}
	return nil
}

// validate returns the kid of a valid key.
func (k Key) validate() (string, error) {
	public, err := jwks.NewKey(k.Public)
	pin, errURI := pinFile(k.PKCS11)
	switch {
	case err != nil:
		return "", err
	case len(k.Private) > 0 && k.PKCS11 != "":
		return "", fmt.Errorf("its private key is both in a file and in a PKCS #11 token")
	case errURI != nil:
		return "", errURI
	case (pin != "") != (len(k.PIN) > 0):
		return "", fmt.Errorf("a PIN requires a pin-source in the PKCS #11 URI, and a pin-source a PIN")
	case k.ExcludeFromOIDCDiscovery && !k.VerifyOnly:
		return "", fmt.Errorf("a key with excludeFromOIDCDiscovery must be verifyOnly: the API server refuses its signatures")
	case len(k.Private) > 0:
		return public.KeyID, k.checkPair()
	}
	return public.KeyID, nil
}

func (k Key) checkPair() error {
	signer, err := k.Signer()
	if err != nil {
		return err
	}
	a, err := jwks.MarshalPublicKey(signer.Public())
	if err != nil {
		return err
	}
	b, err := jwks.MarshalPublicKey(k.Public)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("its public key does not belong to its private key")
	}
	return nil
}
