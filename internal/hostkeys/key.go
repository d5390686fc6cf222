package hostkeys

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/rotation"
)

// Key is one key version. It holds a private key, which formatting and encoding do not show.
type Key struct {
	// Version counts from 1.
	Version int
	// Signer signs with the private key; its Public is the verification key.
	Signer crypto.Signer
}

// String describes the key version without its private key.
func (k Key) String() string { return fmt.Sprintf("key version %d", k.Version) }

// Format writes String for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText returns String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

var (
	// ErrStale means that the keys to write are of an earlier stage than those in the directory.
	ErrStale = errors.New("later keys are configured already")
	// ErrBusy means that another process is changing the directory at this moment. Try again.
	ErrBusy = atomicfile.ErrBusy
)

// versionOf returns the key of a version, which must exist.
func versionOf(version int, keys []Key) (Key, error) {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Version == version })
	if i < 0 || keys[i].Signer == nil {
		return Key{}, fmt.Errorf("key version %d is wanted, but its key was not given", version)
	}
	return keys[i], nil
}

// given reports whether every version of k is among the keys.
func given(k rotation.Keys, keys []Key) bool {
	for _, version := range k.Verify {
		if _, err := versionOf(version, keys); err != nil {
			return false
		}
	}
	return !k.IsZero()
}

// Check refuses keys without a defined stage: they must be one version, or two consecutive ones.
func Check(k rotation.Keys) error {
	switch v := k.Verify; {
	case len(v) == 1 && v[0] >= 1 && k.Sign == v[0]:
	case len(v) == 2 && v[0] >= 1 && v[1] == v[0]+1 && slices.Contains(v, k.Sign):
	default:
		return fmt.Errorf("%s: want one key version, or two consecutive ones, one of which signs", describe(k))
	}
	return nil
}

func describe(k rotation.Keys) string {
	return fmt.Sprintf("accept key versions %v and sign with %d", k.Verify, k.Sign)
}
