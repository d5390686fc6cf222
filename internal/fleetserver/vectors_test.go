package fleetserver

import (
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
)

// TestVectors verifies the vectors of package token, which is other code than go-jose: both must find the same.
func TestVectors(t *testing.T) {
	// The STS does not read the claim kubernetes.io.
	unread := []string{"namespace twice", "pod uid a number"}
	accepted := 0
	for _, v := range vectors.Tokens() {
		tolerated := v.Failure == "" && v.LeewaySeconds > 0 // the end of a token has no leeway here
		if v.Audience == "" || tolerated || slices.Contains(unread, v.Name) {
			continue
		}
		now := v.Now
		if v.Failure == "not yet valid" {
			now = now.Add(time.Duration(v.LeewaySeconds)*time.Second - leeway)
		}
		_, err := verify(v.Token, trust{Issuer: v.Issuer, keys: keySet(t, v.Keys)}, v.Audience, now)
		if err == nil {
			accepted++
		}
		if good := v.Failure == ""; good != (err == nil) {
			t.Errorf("%s: %v, want failure %q", v.Name, err, v.Failure)
		}
	}
	if accepted == 0 {
		t.Error("none was accepted")
	}
}

// TestAlgorithmIsThatOfTheKey before anything is verified: go-jose would find that these do not fit, but not why.
func TestAlgorithmIsThatOfTheKey(t *testing.T) {
	all := keySet(t, []string{"rsa-1", "p256-1", "p384-1"})
	for _, k := range all.Keys() {
		for _, algorithm := range []string{jwks.RS256, jwks.ES256, jwks.ES384, "HS256", "none", ""} {
			found, err := keyOf([]jose.Header{{KeyID: k.KeyID, Algorithm: algorithm}}, all)
			if fits := algorithm == k.Algorithm; fits != (err == nil) || fits && found.KeyID != k.KeyID {
				t.Errorf("%s key for %s: %v", k.Algorithm, algorithm, err)
			}
		}
	}
}

func keySet(t *testing.T, names []string) jwks.Set {
	t.Helper()
	var keys []jwks.Key
	for _, v := range vectors.Keys() {
		if !slices.Contains(names, v.Name) {
			continue
		}
		public, err := jwks.ParsePublicKey([]byte(v.Public))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, jwks.Key{KeyID: v.KeyID, Algorithm: v.Algorithm, Public: public})
	}
	set, err := jwks.NewSet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
