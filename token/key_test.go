package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func TestGenerateKey(t *testing.T) {
	for _, alg := range []string{jwks.RS256, jwks.ES256, jwks.ES384} {
		t.Run(alg, func(t *testing.T) {
			key, err := token.GenerateKey(rand.Reader, alg)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := jwks.Algorithm(key.Public()); got != alg || err != nil {
				t.Errorf("algorithm of the key = %s, %v", got, err)
			}
			if r, ok := key.(*rsa.PrivateKey); ok && r.N.BitLen() != 2048 {
				t.Errorf("RSA key of %d bits", r.N.BitLen())
			}
			encoded, err := token.MarshalPrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			checkSame(t, encoded, key)
		})
	}
	if key, err := token.GenerateKey(rand.Reader, "HS256"); err == nil || key != nil {
		t.Errorf("HS256: %v, %v", key, err)
	}
}

func checkSame(t *testing.T, encoded []byte, want crypto.Signer) {
	t.Helper()
	got, err := token.ParsePrivateKey(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if !want.(interface{ Equal(crypto.PrivateKey) bool }).Equal(got) {
		t.Error("another key came back")
	}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestParsePrivateKeyForms(t *testing.T) {
	r := private(t, "rsa-1").key.(*rsa.PrivateKey)
	checkSame(t, block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r)), r)

	e := private(t, "p256-1").key.(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(e)
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, block("EC PRIVATE KEY", sec1), e)
	parameters := block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	checkSame(t, append(parameters, block("EC PRIVATE KEY", sec1)...), e)
	checkSame(t, append(block("EC PRIVATE KEY", sec1), '\n', '\n'), e)
}

func TestParsePrivateKeyRefuses(t *testing.T) {
	good := []byte(private(t, "p256-1").Private)
	tests := map[string][]byte{
		"nothing":          nil,
		"no PEM":           []byte("secret"),
		"only parameters":  block("EC PARAMETERS", []byte{6, 0}),
		"two keys":         append(append([]byte{}, good...), good...),
		"text behind":      append(append([]byte{}, good...), "secret"...),
		"public key":       []byte(private(t, "p256-1").Public),
		"encrypted":        block("ENCRYPTED PRIVATE KEY", []byte("secret")),
		"garbage":          block("PRIVATE KEY", []byte("secret")),
		"PKCS #1 in PKCS8": block("PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private(t, "rsa-1").key.(*rsa.PrivateKey))),
		"Ed25519":          pkcs8(t, ed25519.NewKeyFromSeed(make([]byte, 32))),
		"P-521":            pkcs8(t, mustP521(t)),
	}
	for name, data := range tests {
		if key, err := token.ParsePrivateKey(data); err == nil || key != nil {
			t.Errorf("%s: read", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error quotes the key: %v", name, err)
		}
	}
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func mustP521(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestParsePrivateKeyWeak(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.ParsePrivateKey(pkcs8(t, key)); !errors.Is(err, jwks.WeakKey) {
		t.Errorf("RSA of 1024 bits: %v, want %v", err, jwks.WeakKey)
	}
}

func TestMarshalPrivateKeyOpaque(t *testing.T) {
	if _, err := token.MarshalPrivateKey(opaque{Signer: private(t, "p256-1").key}); err == nil {
		t.Error("a key that is not in memory was written")
	}
}
