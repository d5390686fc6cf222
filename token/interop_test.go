package token_test

import (
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
	"github.com/keyturn/keyturn/token"
)

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func decode(part string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(part) }

// go-jose, the library that kube-apiserver verifies by, accepts what is signed here and reads the same claims.
func TestSignedForJOSE(t *testing.T) {
	for _, k := range vectors.Keys() {
		t.Run(k.Name, func(t *testing.T) {
			signed, err := private(t, k.Name).signer(t).Sign(rand.Reader, boundClaims())
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := jwt.ParseSigned(signed, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(k.Algorithm)})
			if err != nil {
				t.Fatal(err)
			}
			if h := parsed.Headers[0]; h.KeyID != k.KeyID || len(h.ExtraHeaders) > 0 {
				t.Errorf("header = %+v, want kid %s and no more", h, k.KeyID)
			}
			var claims jwt.Claims
			var rest struct {
				Kubernetes token.Kubernetes `json:"kubernetes.io"`
			}
			if err := parsed.Claims(private(t, k.Name).key.Public(), &claims, &rest); err != nil {
				t.Fatal(err)
			}
			expected := jwt.Expected{Issuer: "https://issuer.example", Subject: "system:serviceaccount:shop:till",
				AnyAudience: jwt.Audience{"sts.example"}, ID: boundClaims().ID, Time: now}
			if err := claims.ValidateWithLeeway(expected, 0); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(*boundClaims().Kubernetes, rest.Kubernetes); diff != "" {
				t.Errorf("claim kubernetes.io (-signed +read):\n%s", diff)
			}
		})
	}
}

// Tokens that go-jose signs are accepted here.
func TestSignedByJOSE(t *testing.T) {
	for _, k := range vectors.Keys() {
		t.Run(k.Name, func(t *testing.T) {
			signed := joseToken(t, k, private(t, k.Name).key, boundClaims())
			expect := token.Expect{Issuer: "https://issuer.example", Audience: "sts.example", Now: now.Add(time.Minute)}
			claims, err := token.Verify(signed, set(t, k.Name), expect)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(boundClaims(), claims); diff != "" {
				t.Errorf("claims (-signed +verified):\n%s", diff)
			}
		})
	}
}

func joseToken(t *testing.T, k vectors.Key, key crypto.Signer, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(k.Algorithm),
		Key:       jose.JSONWebKey{Key: key, KeyID: k.KeyID, Algorithm: k.Algorithm, Use: "sig"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestKubernetes verifies what real API servers issued, by the key sets that they served, and signs the same
// claims again: by RSA, that must give the same token to the byte.
func TestKubernetes(t *testing.T) {
	for _, r := range vectors.Recordings() {
		keys, err := jwks.Parse([]byte(r.JWKS))
		if err != nil {
			t.Fatal(err)
		}
		k := private(t, r.SigningKey)
		for _, recorded := range r.Tokens {
			t.Run(r.Version+" "+r.SigningKey+" "+recorded.Name, func(t *testing.T) {
				claims := verifyRecorded(t, recorded.Token, keys, k.KeyID)
				again, err := k.signer(t).Sign(nil, claims)
				if err != nil {
					t.Fatal(err)
				}
				want, got := recorded.Token, again
				if k.Algorithm != jwks.RS256 { // other signatures are never the same twice
					want, got = withoutSignature(want), withoutSignature(got)
				}
				if got != want {
					t.Errorf("signed again = %s\nwant         %s", got, want)
				}
			})
		}
	}
}

// verifyRecorded verifies a token at the time when it was issued, for the issuer and the audience that it names.
func verifyRecorded(t *testing.T, recorded string, keys jwks.Set, kid string) token.Claims {
	t.Helper()
	_, unverified, err := token.ParseUnverified(recorded)
	if err != nil {
		t.Fatal(err)
	}
	expect := token.Expect{Issuer: unverified.Issuer, Now: unverified.IssuedAt.Time()}
	if len(unverified.Audience) > 0 {
		expect.Audience = unverified.Audience[0]
	}
	if unverified.IsLegacy() {
		expect.Now = now
	}
	claims, err := token.Verify(recorded, keys, expect)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token.KeyID(recorded); got != kid || err != nil {
		t.Errorf("KeyID = %q, %v, want %q", got, err, kid)
	}
	return claims
}

func withoutSignature(tok string) string { return tok[:strings.LastIndex(tok, ".")] }
