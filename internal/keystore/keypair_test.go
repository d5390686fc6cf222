package keystore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func TestGenerate(t *testing.T) {
	for _, algorithm := range []string{jwks.RS256, jwks.ES256} {
		k, err := Generate(rand.Reader, 3, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		if k.Version != 3 || k.Algorithm != algorithm || k.Validate() != nil {
			t.Errorf("Generate(3, %s) = %v, %v", algorithm, k, k.Validate())
		}
	}
	for version, algorithm := range map[int]string{0: jwks.ES256, 1: jwks.ES384, 2: "none", 3: ""} {
		if k, err := Generate(rand.Reader, version, algorithm); err == nil {
			t.Errorf("Generate(%d, %q) = %v, want an error", version, algorithm, k)
		}
	}
}

// TestKeyPairHidesKey prints, logs and encodes key pairs in every way, and looks for the private key.
func TestKeyPairHidesKey(t *testing.T) {
	for _, algorithm := range []string{jwks.RS256, jwks.ES256} {
		k, err := Generate(rand.Reader, 1, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		shown := show(t, k)
		if !strings.Contains(shown, k.KeyID) {
			t.Errorf("nothing shows the kid: %s", shown)
		}
		for _, secret := range forms(t, k) {
			if strings.Contains(shown, secret) {
				t.Errorf("the private key of a key pair for %s shows", algorithm)
			}
		}
	}
}

func show(t *testing.T, k KeyPair) string {
	t.Helper()
	var out bytes.Buffer
	nested := struct {
		Pair    KeyPair
		Pointer *KeyPair
		Pairs   []KeyPair
		hidden  KeyPair
	}{k, &k, []KeyPair{k}, k}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%T"} {
		fmt.Fprintf(&out, verb+verb+verb, k, &k, nested)
		if got := fmt.Sprintf(verb, k); got != k.String() && verb != "%T" {
			t.Errorf("%s shows %s, want %s", verb, got, k)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "pair", k, "pointer", &k, "pairs", nested)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "pair", k, "pointer", &k, "pairs", nested)
	if err := json.NewEncoder(&out).Encode(nested); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// forms returns the private key in the forms in which something could show it.
func forms(t *testing.T, k KeyPair) []string {
	t.Helper()
	var secrets []string
	switch key := k.Signer.(type) {
	case *ecdsa.PrivateKey:
		raw, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		secrets = appendForms(secrets, new(big.Int).SetBytes(raw))
	case *rsa.PrivateKey:
		for _, n := range append(key.Primes, key.D) {
			secrets = appendForms(secrets, n)
		}
	}
	data, err := token.MarshalPrivateKey(k.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return append(secrets, strings.Split(string(data), "\n")[1], "PRIVATE KEY")
}

func appendForms(secrets []string, n *big.Int) []string {
	raw := n.Bytes()
	return append(secrets, n.String(), hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw),
		strings.Trim(fmt.Sprint(raw), "[]"))
}
