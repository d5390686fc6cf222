package signer

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/signer/keydir"
)

// keySet is the set that the signer serves. It is replaced as a whole.
type keySet struct {
	digest keydir.Digest
	readAt time.Time
	leadIn time.Duration
	keys   []*key
	// candidates are the keys that may sign, in order of preference.
	candidates []*key
	// secrets are the kids of the keys whose private key was read from a file, and so is in memory.
	secrets []string
	// served is true once the API server got each of the keys.
	served   atomic.Bool
	fetched  *externaljwt.FetchKeysResponse
	metadata *externaljwt.MetadataResponse
}

// newKeySet opens the keys of a directory, and keeps none of its PEM. Keys that the API server got with the previous
// set count as served. It does not use the private keys yet.
func newKeySet(dir keydir.Set, from backends, previous *keySet) (*keySet, error) {
	s := &keySet{
		leadIn:   dir.LeadIn,
		metadata: &externaljwt.MetadataResponse{MaxTokenExpirationSeconds: int64(dir.MaxTokenExpiration / time.Second)},
		fetched:  &externaljwt.FetchKeysResponse{RefreshHintSeconds: refreshHint(dir)},
	}
	for _, k := range dir.Keys {
		made, err := newKey(k, from)
		if err != nil {
			return nil, fmt.Errorf("key version %d: %w", k.Version, err)
		}
		message, err := made.message()
		if err != nil {
			return nil, fmt.Errorf("key version %d: %w", k.Version, err)
		}
		if len(k.Private) > 0 {
			s.secrets = append(s.secrets, made.KeyID)
		}
		made.served = previous.servedAt(made)
		s.keys = append(s.keys, made)
		s.fetched.Keys = append(s.fetched.Keys, message)
	}
	s.candidates = candidates(s.keys, dir.SigningVersion, previous)
	return s, nil
}

// lacks reports whether the other set has a private key from a file that this set has not.
func (s *keySet) lacks(other *keySet) bool {
	return slices.ContainsFunc(other.secrets, func(kid string) bool { return !slices.Contains(s.secrets, kid) })
}

// refreshHint is short while the discovery document has several keys, since a rotation is running.
func refreshHint(dir keydir.Set) int64 {
	shown := 0
	for _, k := range dir.Keys {
		if !k.ExcludeFromOIDCDiscovery {
			shown++
		}
	}
	if shown > 1 {
		return int64(dir.RotationRefreshHint / time.Second)
	}
	return int64(dir.RefreshHint / time.Second)
}

// candidates returns the keys with a signer: first the wanted one, then the one that signed last, then the newest.
func candidates(keys []*key, wanted int, previous *keySet) []*key {
	rank := func(k *key) int {
		switch {
		case k.version == wanted:
			return 0
		case previous != nil && previous.signed(k):
			return 1
		}
		return 2
	}
	var all []*key
	for _, k := range slices.Backward(keys) {
		if k.signer != nil {
			all = append(all, k)
		}
	}
	slices.SortStableFunc(all, func(a, b *key) int { return rank(a) - rank(b) })
	return all
}

// signed reports whether the key is the first of the set's candidates that was served, the one that signed.
func (s *keySet) signed(k *key) bool {
	for _, c := range s.candidates {
		if c.served.Load() != nil {
			return c.KeyID == k.KeyID
		}
	}
	return false
}

// servedAt returns when the API server got this key from the set. A key that was excluded from the discovery document
// does not count as the same one, since the API server would refuse its signatures.
func (s *keySet) servedAt(k *key) *servedAt {
	if s != nil {
		for _, old := range s.keys {
			if old.KeyID == k.KeyID && old.excluded == k.excluded {
				return old.served
			}
		}
	}
	return &servedAt{}
}

// dated returns a copy of the set with another time of reading.
func (s *keySet) dated(at time.Time) *keySet {
	again := &keySet{
		digest: s.digest, readAt: at, leadIn: s.leadIn, keys: s.keys, candidates: s.candidates,
		secrets: s.secrets, metadata: s.metadata,
		fetched: &externaljwt.FetchKeysResponse{
			Keys: s.fetched.Keys, RefreshHintSeconds: s.fetched.RefreshHintSeconds, DataTimestamp: timestamppb.New(at),
		},
	}
	again.served.Store(s.served.Load())
	return again
}

// noteServed records that the API server got the set now, by the boot clock. It reports whether a key was new to it.
func (s *keySet) noteServed(clock func() time.Duration) bool {
	if s.served.Load() {
		return false
	}
	now, changed := clock(), false
	for _, k := range s.keys {
		changed = k.served.note(now) || changed
	}
	s.served.Store(true)
	return changed
}

// errNotServed is returned while no key may sign yet.
var errNotServed = errors.New("the API server has not fetched a key that may sign, or not for the lead-in")

// signing returns the key that signs now, by the boot clock.
func (s *keySet) signing(clock func() time.Duration) (*key, error) {
	for _, k := range s.candidates {
		if k.maySign(clock, s.leadIn) {
			return k, nil
		}
	}
	return nil, errNotServed
}

// prove proves each key that may sign. The error names those that do not work. wrong is true if a private key does not
// belong to its public key, which waiting does not fix.
func (s *keySet) prove() (wrong bool, err error) {
	for _, k := range s.candidates {
		if e := k.prove(); e != nil {
			wrong = wrong || errors.Is(e, backend.ErrOtherKey)
			err = errors.Join(err, fmt.Errorf("key version %d (kid %s) does not sign: %w", k.version, k.KeyID, e))
		}
	}
	return wrong, err
}
