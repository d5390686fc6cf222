package token_test

import (
	"crypto"
	"crypto/rand"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
	"github.com/keyturn/keyturn/token"
)

var now = time.Unix(1_700_000_000, 0).UTC()

// keyPair is a private key of the vectors.
type keyPair struct {
	vectors.Key
	key crypto.Signer
}

func private(t testing.TB, name string) keyPair {
	t.Helper()
	for _, k := range vectors.Keys() {
		if k.Name == name {
			key, err := token.ParsePrivateKey([]byte(k.Private))
			if err != nil {
				t.Fatal(err)
			}
			return keyPair{k, key}
		}
	}
	t.Fatalf("no key %s in the vectors", name)
	return keyPair{}
}

func (k keyPair) signer(t testing.TB) *token.Signer {
	t.Helper()
	s, err := token.NewSigner(k.key, k.Algorithm, k.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func boundClaims() token.Claims {
	c := token.NewBoundClaims("https://issuer.example", []string{"sts.example"}, token.Kubernetes{
		Namespace:      "shop",
		Pod:            &token.Ref{Name: "till-0", UID: "p-1"},
		ServiceAccount: token.Ref{Name: "till", UID: "s-1"},
	}, now, time.Hour)
	c.ID = "5b0c4c1f-6a2a-4d5b-9d3e-0e7a5c0b8f11"
	return c
}

func legacyClaims() token.Claims {
	return token.NewLegacyClaims(token.Legacy{
		Namespace: "shop", SecretName: "till-token", ServiceAccountName: "till", ServiceAccountUID: "s-1",
	})
}

func TestSignAndVerify(t *testing.T) {
	expect := map[string]token.Expect{
		"bound":  {Issuer: "https://issuer.example", Audience: "sts.example", Now: now},
		"legacy": {Issuer: token.LegacyIssuer, Now: now},
	}
	claims := map[string]token.Claims{"bound": boundClaims(), "legacy": legacyClaims()}
	for _, k := range vectors.Keys() {
		for kind, want := range claims {
			t.Run(kind+" "+k.Name, func(t *testing.T) {
				signed, err := token.Sign(rand.Reader, private(t, k.Name).key, k.Algorithm, k.KeyID, want)
				if err != nil {
					t.Fatal(err)
				}
				got, err := token.Verify(signed, set(t, k.Name), expect[kind])
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("claims changed (-signed +verified):\n%s", diff)
				}
				if kid, err := token.KeyID(signed); kid != k.KeyID || err != nil {
					t.Errorf("KeyID = %q, %v, want %q", kid, err, k.KeyID)
				}
			})
		}
	}
}

// The header has the members of kube-apiserver's, and no others.
func TestHeader(t *testing.T) {
	signed, err := private(t, "p256-1").signer(t).Sign(rand.Reader, legacyClaims())
	if err != nil {
		t.Fatal(err)
	}
	header, _, err := token.ParseUnverified(signed)
	if err != nil {
		t.Fatal(err)
	}
	if want := (token.Header{Algorithm: "ES256", KeyID: private(t, "p256-1").KeyID}); header != want {
		t.Errorf("header = %v, want %v", header, want)
	}
}

func TestVerifyFailsClosed(t *testing.T) {
	signed, err := private(t, "rsa-1").signer(t).Sign(rand.Reader, legacyClaims())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Verify(signed, set(t, "rsa-1"), token.Expect{}); !errors.Is(err, token.WrongIssuer) {
		t.Errorf("expecting nothing: %v, want %v", err, token.WrongIssuer)
	}
	if _, err := token.Verify(signed, set(t, "rsa-1"),
		token.Expect{Issuer: token.LegacyIssuer}); !errors.Is(err, token.NotYetValid) {
		t.Errorf("without a time: %v, want %v", err, token.NotYetValid)
	}
	if _, err := token.Verify(signed, jwks.Set{},
		token.Expect{Issuer: token.LegacyIssuer, Now: now}); !errors.Is(err, token.UnknownKey) {
		t.Errorf("without keys: %v, want %v", err, token.UnknownKey)
	}
}

// A legacy token has no audience. One that has, like every other token with an audience, has to end.
func TestLegacyTokenWithAudience(t *testing.T) {
	claims := legacyClaims()
	claims.Audience = []string{"sts.example"}
	expect := token.Expect{Issuer: token.LegacyIssuer, Audience: "sts.example", Now: now}
	verify := func() error {
		signed, err := private(t, "p256-1").signer(t).Sign(rand.Reader, claims)
		if err != nil {
			t.Fatal(err)
		}
		_, err = token.Verify(signed, set(t, "p256-1"), expect)
		return err
	}
	if err := verify(); !errors.Is(err, token.Malformed) {
		t.Errorf("without an end: %v, want %v", err, token.Malformed)
	}
	claims.Expiry = token.NewNumericDate(now.Add(time.Hour))
	if err := verify(); err != nil {
		t.Errorf("with an end: %v", err)
	}
}

func TestNewSignerRefuses(t *testing.T) {
	tests := []struct{ key, alg, kid string }{
		{"rsa-1", "ES256", "k"},
		{"rsa-1", "PS256", "k"},
		{"rsa-1", "none", "k"},
		{"p256-1", "RS256", "k"},
		{"p256-1", "ES384", "k"},
		{"p384-1", "ES256", "k"},
		{"p256-1", "", "k"},
		{"p256-1", "ES256", ""},
		{"p256-1", "ES256", strings.Repeat("k", jwks.MaxKeyID+1)},
	}
	for _, test := range tests {
		if _, err := token.NewSigner(private(t, test.key).key, test.alg, test.kid); err == nil {
			t.Errorf("a %s key signs as %q with a kid of %d bytes", test.key, test.alg, len(test.kid))
		}
	}
}

func TestSignRefuses(t *testing.T) {
	s := private(t, "p256-1").signer(t)
	long := boundClaims()
	long.ID = strings.Repeat("x", token.MaxSize)
	for name, claims := range map[string]any{
		"too long":  long,
		"a string":  "till",
		"null":      (*token.Claims)(nil),
		"no number": map[string]any{"till": math.NaN()},
	} {
		if _, err := s.Sign(rand.Reader, claims); err == nil {
			t.Errorf("%s: signed", name)
		} else {
			checkQuiet(t, "", err)
		}
	}
}

// opaque is a key whose signatures answer makes, like one in broken hardware.
type opaque struct {
	crypto.Signer
	answer []byte
	err    error
}

func (o opaque) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return o.answer, o.err }

func TestSignWithBrokenKey(t *testing.T) {
	unplugged := errors.New("unplugged")
	key := private(t, "p256-1")
	tests := map[string]opaque{
		"error":             {err: unplugged},
		"nothing":           {},
		"not ASN.1":         {answer: make([]byte, 64)},
		"r is 0":            {answer: []byte{0x30, 6, 2, 1, 0, 2, 1, 1}},
		"s is negative":     {answer: []byte{0x30, 6, 2, 1, 1, 2, 1, 0xff}},
		"r has 33 bytes":    {answer: append([]byte{0x30, 38, 2, 33, 1}, append(make([]byte, 32), 2, 1, 1)...)},
		"something follows": {answer: []byte{0x30, 6, 2, 1, 1, 2, 1, 1, 0}},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			o.Signer = key.key
			_, err := token.Sign(rand.Reader, o, "ES256", key.KeyID, legacyClaims())
			if err == nil || (o.err != nil && !errors.Is(err, unplugged)) {
				t.Errorf("Sign: %v", err)
			}
		})
	}
}

// A small r or s is filled up with zeros in front.
func TestSignFillsUp(t *testing.T) {
	key := private(t, "p256-1")
	o := opaque{Signer: key.key, answer: []byte{0x30, 6, 2, 1, 1, 2, 1, 2}}
	signed, err := token.Sign(rand.Reader, o, "ES256", key.KeyID, legacyClaims())
	if err != nil {
		t.Fatal(err)
	}
	if signature := signed[strings.LastIndex(signed, ".")+1:]; !strings.HasPrefix(signature, strings.Repeat("A", 41)) ||
		len(signature) != 86 {
		t.Errorf("signature %s is not 64 bytes of which the first 31 are zero", signature)
	}
}
