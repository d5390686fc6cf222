package jwks_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
)

// FuzzParse reads anything as a key set. What it accepts must come back when written, and go-jose must find the
// same keys in it.
func FuzzParse(f *testing.F) {
	for _, v := range vectors.Sets() {
		f.Add([]byte(v.Document))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := jwks.Parse(data)
		if err != nil {
			if _, classed := errors.AsType[jwks.Failure](err); !classed {
				t.Errorf("an error of no class: %v", err)
			}
			return
		}
		written, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := jwks.Parse(written)
		if err != nil || !slices.EqualFunc(s.Keys(), again.Keys(), sameKey) {
			t.Errorf("written %s, but not read again: %v", written, err)
		}
		var other jose.JSONWebKeySet
		if err := json.Unmarshal(written, &other); err != nil || !slices.EqualFunc(s.Keys(), other.Keys, sameAsJOSE) {
			t.Errorf("go-jose reads %s otherwise: %v", written, err)
		}
	})
}

func sameKey(a, b jwks.Key) bool {
	x, errX := jwks.MarshalPublicKey(a.Public)
	y, errY := jwks.MarshalPublicKey(b.Public)
	return a.KeyID == b.KeyID && a.Algorithm == b.Algorithm && errX == nil && errY == nil && bytes.Equal(x, y)
}

func sameAsJOSE(a jwks.Key, b jose.JSONWebKey) bool {
	return b.Valid() && b.Use == "sig" && sameKey(a, jwks.Key{KeyID: b.KeyID, Algorithm: b.Algorithm, Public: b.Key})
}

// FuzzParseDiscovery reads anything as a discovery document. What it accepts must come back when written.
func FuzzParseDiscovery(f *testing.F) {
	for _, v := range vectors.Discoveries() {
		f.Add([]byte(v.Document))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := jwks.ParseDiscovery(data)
		if err != nil {
			if !errors.Is(err, jwks.Malformed) {
				t.Errorf("an error of no class: %v", err)
			}
			return
		}
		written, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := jwks.ParseDiscovery(written)
		if err != nil || again.Issuer != d.Issuer || !slices.Equal(again.Algorithms, d.Algorithms) {
			t.Errorf("written %s, but not read again: %v", written, err)
		}
	})
}

// FuzzParsePublicKey reads anything as a public key. What it accepts must come back when written.
func FuzzParsePublicKey(f *testing.F) {
	for _, k := range vectors.Keys() {
		f.Add([]byte(k.Public))
		f.Add([]byte(k.Private))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		public, err := jwks.ParsePublicKey(data)
		if err != nil {
			return
		}
		written, err := jwks.MarshalPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jwks.ParsePublicKey(written); err != nil {
			t.Errorf("written %s, but not read again: %v", written, err)
		}
	})
}
