package token_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/test/vectors"
	"github.com/keyturn/keyturn/token"
)

// FuzzParse reads anything as a token. What it accepts, it must read the same from another token with the same claims.
func FuzzParse(f *testing.F) {
	for _, v := range vectors.Tokens() {
		f.Add(v.Token)
	}
	keys, signer := set(f, "rsa-1", "p256-1", "p384-1"), private(f, "p256-1").signer(f)
	f.Fuzz(func(t *testing.T, tok string) {
		checkClass(t, tok)
		if _, err := token.Verify(tok, keys, token.Expect{Issuer: "nobody", Now: now}); err == nil {
			t.Error("verified")
		}
		_, claims, err := token.ParseUnverified(tok)
		if err != nil {
			return
		}
		again, err := signer.Sign(nil, claims)
		if err != nil {
			if len(tok) < token.MaxSize/8 { // escaping may make the claims longer
				t.Errorf("claims that were read cannot be signed: %v", err)
			}
			return
		}
		if len(claims.Audience) == 0 {
			claims.Audience = nil // an empty array is not written
		}
		if _, got, err := token.ParseUnverified(again); err != nil || !cmp.Equal(claims, got) {
			t.Errorf("read %v and then %v (%v)", claims, got, err)
		}
	})
}

// checkClass finds that the readers agree on what is malformed and on the kid.
func checkClass(t *testing.T, tok string) {
	t.Helper()
	header, _, err := token.ParseUnverified(tok)
	if err != nil && !errors.Is(err, token.Malformed) && !errors.Is(err, token.UnsupportedAlgorithm) {
		t.Errorf("an error of no class: %v", err)
	}
	kid, kidErr := token.KeyID(tok)
	if kidErr != nil && (err == nil || !errors.Is(kidErr, token.Malformed)) {
		t.Errorf("KeyID: %v, ParseUnverified: %v", kidErr, err)
	}
	if err == nil && kid != header.KeyID {
		t.Errorf("KeyID = %q, the header's is %q", kid, header.KeyID)
	}
}

// FuzzHeader puts anything into a header. What it accepts must be what encoding/json reads, and must be all that is
// there.
func FuzzHeader(f *testing.F) {
	for _, v := range vectors.Tokens() {
		header, _, _ := strings.Cut(v.Token, ".")
		if raw, err := decode(header); err == nil {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		kid, err := token.KeyID(encode(raw) + ".e30.AA")
		if err != nil {
			return
		}
		var all map[string]string
		if err := json.Unmarshal(raw, &all); err != nil || all["kid"] != kid || all["alg"] == "" {
			t.Errorf("kid %q read from %q (%v)", kid, raw, err)
		}
		for name := range all {
			if !slices.Contains([]string{"alg", "kid", "typ"}, name) {
				t.Errorf("member %q accepted", name)
			}
		}
	})
}

// FuzzPrivateKey reads anything as a private key. What it accepts must come back when written.
func FuzzPrivateKey(f *testing.F) {
	for _, k := range vectors.Keys() {
		f.Add([]byte(k.Private))
		f.Add([]byte(k.Public))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := token.ParsePrivateKey(data)
		if err != nil {
			return
		}
		encoded, err := token.MarshalPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, encoded, key)
	})
}
