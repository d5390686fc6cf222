package jwks

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// Path is where kube-apiserver serves its key set, below the URL of the API server.
const Path = "/openid/v1/jwks"

// MaxSize is the most bytes that Parse and ParseDiscovery read.
const MaxSize = 1 << 20

// Set is an ordered set of verification keys, a JSON Web Key Set (RFC 7517, section 5). The zero value is empty. A Set
// is immutable, and so safe for concurrent use.
type Set struct {
	keys []Key
}

// NewSet returns the set of these keys, in this order.
func NewSet(keys ...Key) (Set, error) {
	for i, k := range keys {
		if err := k.check(); err != nil {
			return Set{}, fmt.Errorf("key %d of the set: %w", i, err)
		}
	}
	if err := checkUnique(keys); err != nil {
		return Set{}, err
	}
	return Set{keys: slices.Clone(keys)}, nil
}

func checkUnique(keys []Key) error {
	seen := make(map[string]bool, len(keys))
	for i, k := range keys {
		if seen[k.KeyID] {
			return fmt.Errorf("key %d of the set: %w", i, DuplicateKeyID)
		}
		seen[k.KeyID] = true
	}
	return nil
}

// Keys returns the keys in order.
func (s Set) Keys() []Key { return slices.Clone(s.keys) }

// Len returns the number of keys.
func (s Set) Len() int { return len(s.keys) }

// Lookup returns the key with this kid.
func (s Set) Lookup(kid string) (Key, bool) {
	i := slices.IndexFunc(s.keys, func(k Key) bool { return k.KeyID == kid })
	if i < 0 {
		return Key{}, false
	}
	return s.keys[i], true
}

// Marshal returns the set as JSON, byte for byte as kube-apiserver serves it.
func (s Set) Marshal() ([]byte, error) {
	document := struct {
		Keys []wireKey `json:"keys"`
	}{Keys: make([]wireKey, 0, len(s.keys))}
	for _, k := range s.keys {
		wire, err := encode(k)
		if err != nil {
			return nil, fmt.Errorf("encoding key set: %w", err)
		}
		document.Keys = append(document.Keys, wire)
	}
	return json.Marshal(document)
}

// Parse reads a JSON Web Key Set as kube-apiserver serves it: each key has a unique kid, "use": "sig" and an algorithm
// that fits it. Members that RFC 7517 does not define are ignored, as it requires; members of private keys are an
// error.
func Parse(data []byte) (Set, error) {
	raw, err := rawKeys(data)
	if err != nil {
		return Set{}, err
	}
	keys := make([]Key, 0, len(raw))
	for i, r := range raw {
		k, err := decode(r)
		if err != nil {
			return Set{}, fmt.Errorf("reading key %d of the set: %w", i, err)
		}
		keys = append(keys, k)
	}
	return NewSet(keys...)
}

// ParseUsable reads a JSON Web Key Set of another issuer as a verifier should (RFC 7517, section 5). It skips and
// counts the keys that Parse would refuse. Of several keys with one kid it keeps the first.
func ParseUsable(data []byte) (usable Set, others int, err error) {
	raw, err := rawKeys(data)
	if err != nil {
		return Set{}, 0, err
	}
	for _, r := range raw {
		k, err := decode(r)
		if _, seen := usable.Lookup(k.KeyID); err != nil || seen {
			others++
			continue
		}
		usable.keys = append(usable.keys, k)
	}
	return usable, others, nil
}

// rawKeys splits a JSON Web Key Set into its keys.
func rawKeys(data []byte) ([]json.RawMessage, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("reading key set: %w: longer than %d bytes", Malformed, MaxSize)
	}
	document, err := strictjson.Members(data)
	if err != nil {
		return nil, fmt.Errorf("reading key set: %w: %w", Malformed, err)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(document["keys"], &raw); err != nil || raw == nil {
		return nil, fmt.Errorf("reading key set: %w: member keys is not an array", Malformed)
	}
	return raw, nil
}
