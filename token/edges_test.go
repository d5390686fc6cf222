package token_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func TestNewClaims(t *testing.T) {
	want := token.Claims{
		Issuer:  "kubernetes/serviceaccount",
		Subject: "system:serviceaccount:shop:till",
		Legacy: &token.Legacy{
			Namespace: "shop", SecretName: "till-token", ServiceAccountName: "till", ServiceAccountUID: "s-1",
		},
	}
	if diff := cmp.Diff(want, legacyClaims()); diff != "" {
		t.Errorf("legacy claims (-want +got):\n%s", diff)
	}
	want = token.Claims{
		Issuer:    "https://issuer.example",
		Subject:   "system:serviceaccount:shop:till",
		Audience:  []string{"sts.example"},
		Expiry:    1_700_003_600,
		NotBefore: 1_700_000_000,
		IssuedAt:  1_700_000_000,
		ID:        boundClaims().ID,
		Kubernetes: &token.Kubernetes{
			Namespace:      "shop",
			Pod:            &token.Ref{Name: "till-0", UID: "p-1"},
			ServiceAccount: token.Ref{Name: "till", UID: "s-1"},
		},
	}
	if diff := cmp.Diff(want, boundClaims()); diff != "" {
		t.Errorf("bound claims (-want +got):\n%s", diff)
	}
}

// A token is a legacy token only if both its issuer and its members say so.
func TestIsLegacy(t *testing.T) {
	other := legacyClaims()
	other.Issuer = "https://issuer.example"
	bare := token.Claims{Issuer: token.LegacyIssuer}
	if !legacyClaims().IsLegacy() || other.IsLegacy() || bare.IsLegacy() {
		t.Errorf("IsLegacy = %t, %t with another issuer, %t without its members, want true, false, false",
			legacyClaims().IsLegacy(), other.IsLegacy(), bare.IsLegacy())
	}
}

// tokenOf is a token with a signature that nobody made.
func tokenOf(header, payload string) string {
	return encode([]byte(header)) + "." + encode([]byte(payload)) + ".AAAA"
}

// Each error names its class and the first thing that is wrong.
func TestErrorsName(t *testing.T) {
	const header = `{"alg":"ES256","kid":"k"}`
	tests := []struct{ token, want string }{
		{strings.Repeat("A", token.MaxSize+1), "malformed: too long"},
		{"e30.e30", "malformed: not three parts"},
		{"e30.e30.e30.e30", "malformed: not three parts"},
		{"e30..e30", "malformed: a part is empty or not base64url without padding"},
		{tokenOf("[]", "{}"), "malformed: header is not a JSON object with unique member names"},
		{tokenOf("{}", "{}"), "malformed: header has no alg"},
		{tokenOf(`{"alg":"HS256"}`, "{}"), "unsupported algorithm"},
		{tokenOf(header, "[]"), "malformed: payload is not a JSON object with unique member names"},
		{tokenOf(header, `{"iss":1,"sub":2}`), "malformed: member iss is not a string"},
		{tokenOf(header, `{"nbf":0}`), "malformed: member nbf is not a time after 1970 and before 10000"},
		{tokenOf(header, `{"nbf":253402300800}`), "malformed: member nbf is not a time after 1970 and before 10000"},
	}
	for _, test := range tests {
		if _, _, err := token.ParseUnverified(test.token); err == nil || err.Error() != test.want {
			t.Errorf("ParseUnverified(%.80s): %v, want %s", test.token, err, test.want)
		}
		_, err := token.Verify(test.token, jwks.Set{}, token.Expect{})
		if want := "verifying token: " + test.want; err == nil || err.Error() != want {
			t.Errorf("Verify(%.80s): %v, want %s", test.token, err, want)
		}
	}
}

func TestKeyIDRefuses(t *testing.T) {
	tests := map[string]string{
		"too long":          tokenOf(`{"alg":"ES256","kid":"k"}`, "{}") + strings.Repeat("A", token.MaxSize),
		"two parts":         "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.e30",
		"four parts":        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.e30.e30.e30",
		"padded":            "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ==.e30.e30",
		"another member":    tokenOf(`{"alg":"ES256","kid":"k","jku":"https://other.example"}`, "{}"),
		"one byte too much": tokenOf(`{"alg":"ES256","kid":"`+strings.Repeat("k", jwks.MaxKeyID+1)+`"}`, "{}"),
	}
	for name, tok := range tests {
		if kid, err := token.KeyID(tok); kid != "" || !errors.Is(err, token.Malformed) {
			t.Errorf("%s: KeyID = %q, %v, want %v", name, kid, err, token.Malformed)
		}
	}
	const want = "malformed: a part is empty or not base64url without padding"
	if _, err := token.KeyID(tests["padded"]); err == nil || err.Error() != want {
		t.Errorf("padded: %v, want %s", err, want)
	}
}

// What is as long, as early or as late as may be is read.
func TestLimits(t *testing.T) {
	kid := strings.Repeat("k", jwks.MaxKeyID)
	tok := tokenOf(`{"alg":"ES256","kid":"`+kid+`"}`, `{"nbf":1,"exp":253402300799}`)
	tok += strings.Repeat("A", token.MaxSize-len(tok))
	header, claims, err := token.ParseUnverified(tok)
	if err != nil || header.KeyID != kid || claims.NotBefore != 1 || claims.Expiry != 253402300799 {
		t.Errorf("ParseUnverified = %v, %v, %v", header, claims, err)
	}
	if got, err := token.KeyID(tok); err != nil || got != kid {
		t.Errorf("KeyID = %q, %v", got, err)
	}
	if _, err := token.NewSigner(private(t, "p256-1").key, "ES256", kid); err != nil {
		t.Error(err)
	}
}

// A token of MaxSize is signed, and none that is longer.
func TestSignLimit(t *testing.T) {
	key := opaque{Signer: private(t, "p256-1").key, answer: []byte{0x30, 6, 2, 1, 1, 2, 1, 1}}
	longest := 0
	for kid := range 4 { // some lengths are no multiple of whole bytes in base64url
		for id := token.MaxSize/4*3 - 300; id < token.MaxSize/4*3; id++ {
			claims := token.Claims{ID: strings.Repeat("x", id)}
			if signed, err := token.Sign(nil, key, "ES256", strings.Repeat("k", kid+1), claims); err == nil {
				longest = max(longest, len(signed))
			}
		}
	}
	if longest != token.MaxSize {
		t.Errorf("the longest token that was signed has %d bytes, want %d", longest, token.MaxSize)
	}
}

func TestSignWithoutSigner(t *testing.T) {
	unsupported := mustP521(t)
	for name, key := range map[string]crypto.Signer{"P-521": unsupported, "P-256": private(t, "p256-1").key} {
		if signed, err := token.Sign(rand.Reader, key, "", "k", legacyClaims()); err == nil || signed != "" {
			t.Errorf("%s: signed without an algorithm", name)
		}
	}
	if _, err := token.NewSigner(unsupported, "", "k"); !errors.Is(err, jwks.UnsupportedKey) {
		t.Errorf("P-521: %v, want %v", err, jwks.UnsupportedKey)
	}
}

// Keys in forms that are read, but with nothing in them that signs.
func TestParsePrivateKeyWithoutSigner(t *testing.T) {
	agreement, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]byte{
		"X25519":          pkcs8(t, agreement),
		"garbage, PKCS 1": block("RSA PRIVATE KEY", []byte("secret")),
		"garbage, SEC 1":  block("EC PRIVATE KEY", []byte("secret")),
	}
	for name, data := range tests {
		if key, err := token.ParsePrivateKey(data); err == nil || key != nil {
			t.Errorf("%s: read", name)
		}
	}
}

// Of a token that is not legacy, the legacy members do not replace an expiry.
func TestVerifyWantsExpiry(t *testing.T) {
	claims := legacyClaims()
	claims.Issuer, claims.Audience = "https://issuer.example", []string{"sts.example"}
	signed, err := private(t, "p256-1").signer(t).Sign(rand.Reader, claims)
	if err != nil {
		t.Fatal(err)
	}
	expect := token.Expect{Issuer: claims.Issuer, Audience: "sts.example", Now: now.Add(time.Minute)}
	if _, err := token.Verify(signed, set(t, "p256-1"), expect); !errors.Is(err, token.Malformed) {
		t.Errorf("%v, want %v", err, token.Malformed)
	}
}
