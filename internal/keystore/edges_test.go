package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/jwks"
)

func generated(t *testing.T) KeyPair {
	t.Helper()
	k, err := Generate(rand.Reader, 3, jwks.ES256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func onCurve(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNamed(t *testing.T) {
	c := Cluster{Namespace: "keys", Name: "blue", UID: "uid"}
	tests := map[string]bool{
		"blue-ksa-signing-key-1":                   true,
		"blue-ksa-signing-key-999999999":           true,
		"blue":                                     false,
		"blue-ksa-signing-key-0":                   false,
		"blue-ksa-signing-key-1234567890":          false,
		"deep-blue-ksa-signing-key-1":              false,
		"blue-ksa-signing-key-1-ksa-signing-key-1": false,
	}
	for name, want := range tests {
		if got := named(name, c); got != want {
			t.Errorf("named(%s, %s) = %t", name, c, got)
		}
	}
	if c.String() != "keys/blue" {
		t.Errorf("String = %s", c)
	}
}

func TestEncode(t *testing.T) {
	c := Cluster{Namespace: "keys", Name: "blue", UID: "uid"}
	k := generated(t)
	s, err := encode(c, k)
	if err != nil || s.Namespace != "keys" || s.Name != "blue-ksa-signing-key-3" {
		t.Errorf("encode = %v, %v", s, err)
	}
	k.Signer = struct{ crypto.Signer }{k.Signer}
	if s, err := encode(c, k); err == nil || s != nil || !strings.HasPrefix(err.Error(), "key version 3: ") {
		t.Errorf("encoding a key that is not in memory: %v, want an error that names the version", err)
	}
}

func TestGenerateNamesVersion(t *testing.T) {
	want := `generating key version 3: algorithm "ES384" is neither RS256 nor ES256`
	if _, err := Generate(rand.Reader, 3, jwks.ES384); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestAdopted stores keys that a cluster had: Keyturn makes none on P-384.
func TestAdopted(t *testing.T) {
	k, err := New(1, onCurve(t, elliptic.P384()))
	if err != nil || k.Algorithm != jwks.ES384 {
		t.Fatalf("%v, %v", k, err)
	}
	c := Cluster{Namespace: "keys", Name: "blue", UID: "uid"}
	s, err := encode(c, k)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := decode(c, s); err != nil || read.KeyID != k.KeyID {
		t.Errorf("%v, %v", read, err)
	}
}

func TestValidate(t *testing.T) {
	tests := map[string]KeyPair{
		"has no private key": {Version: 1},
		"unsupported key":    {Version: 1, Signer: onCurve(t, elliptic.P521())},
	}
	for want, k := range tests {
		if err := k.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error with %q", k, err, want)
		}
	}
	if err := tests["unsupported key"].Validate(); !errors.Is(err, jwks.UnsupportedKey) {
		t.Errorf("P-521: %v, want %v", err, jwks.UnsupportedKey)
	}
}

func TestShows(t *testing.T) {
	k := generated(t)
	if want := fmt.Sprintf("key version 3 (ES256, kid %s)", k.KeyID); k.String() != want {
		t.Errorf("String = %s, want %s", k, want)
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("stored", "key", k)
	if want := "key.version=3 key.algorithm=ES256 key.keyID=" + k.KeyID; !strings.Contains(out.String(), want) {
		t.Errorf("log = %s, want %s in it", &out, want)
	}
}

// Only a refusal by the API server leaves no doubt that a write did not happen.
func TestAmbiguous(t *testing.T) {
	tests := map[int32]bool{
		0: true, 301: true, 399: true, 400: false, 403: false, 408: true, 409: false, 429: false, 499: false, 500: true, 503: true,
	}
	for code, want := range tests {
		err := &apierrors.StatusError{ErrStatus: metav1.Status{Code: code}}
		if got := errors.Is(ambiguous(err), ErrAmbiguous); got != want {
			t.Errorf("status %d is ambiguous: %t, want %t", code, got, want)
		}
	}
	if !errors.Is(ambiguous(errors.New("connection reset")), ErrAmbiguous) || errors.Is(ambiguous(ErrExists), ErrAmbiguous) {
		t.Error("an error without a status is not ambiguous, or ErrExists is")
	}
}
