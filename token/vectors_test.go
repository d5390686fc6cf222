package token_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
	"github.com/keyturn/keyturn/token"
)

func TestVectors(t *testing.T) {
	for _, v := range vectors.Tokens() {
		t.Run(v.Name, func(t *testing.T) {
			claims, err := token.Verify(v.Token, set(t, v.Keys...), token.Expect{
				Issuer: v.Issuer, Audience: v.Audience, Now: v.Now, Leeway: time.Duration(v.LeewaySeconds) * time.Second,
			})
			checkFailure(t, v, err)
			checkKeyID(t, v)
			if v.Failure != "" {
				checkQuiet(t, v.Token, err)
				return
			}
			if got, err := json.Marshal(claims); err != nil || string(got) != v.Claims {
				t.Errorf("claims = %s (%v)\nwant     %s", got, err, v.Claims)
			}
		})
	}
}

func checkFailure(t *testing.T, v vectors.Token, err error) {
	t.Helper()
	failure, _ := errors.AsType[token.Failure](err)
	if string(failure) != v.Failure || (err == nil) != (v.Failure == "") {
		t.Errorf("Verify: %v, want failure %q", err, v.Failure)
	}
	_, _, err = token.ParseUnverified(v.Token)
	if parses := failure != token.Malformed && failure != token.UnsupportedAlgorithm; parses && err != nil {
		t.Errorf("ParseUnverified: %v for a token that is %q", err, v.Failure)
	}
}

func checkKeyID(t *testing.T, v vectors.Token) {
	t.Helper()
	kid, err := token.KeyID(v.Token)
	if kid != v.KeyID || (err != nil && !errors.Is(err, token.Malformed)) {
		t.Errorf("KeyID = %q, %v, want %q", kid, err, v.KeyID)
	}
}

// checkQuiet looks for pieces of a token, encoded or not, in an error.
func checkQuiet(t *testing.T, tok string, err error) {
	t.Helper()
	secrets := strings.Split(tok, ".")
	secrets = append(secrets, "till", "shop", "boss", "issuer.example", "other.example", "sts.example", "1700", "1e300")
	for _, s := range secrets {
		if len(s) > 1 && strings.Contains(err.Error(), s) {
			t.Errorf("error quotes the token: %v", err)
		}
	}
}

// set is the key set of the named keys of the vectors.
func set(t testing.TB, names ...string) jwks.Set {
	t.Helper()
	var keys []jwks.Key
	for _, name := range names {
		k, err := jwks.NewKey(private(t, name).key.Public())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	s, err := jwks.NewSet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
