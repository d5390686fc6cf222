package vectors

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the vector files")

const warning = "TEST ONLY. These private keys are public. Never use them for anything but tests."

// TestFiles writes the files with -update, and otherwise checks that they are what it would write. Nothing here uses
// the packages under test: a vector is what its author says it is. Keys that exist are kept.
func TestFiles(t *testing.T) {
	keys := existingKeys(t)
	if keys == nil && *update {
		keys = newKeys(t)
	}
	check(t, "keys.json", keyFile{Warning: warning, Keys: keys})
	g := newGenerator(t, keys)
	check(t, "tokens.json", g.allTokens())
	check(t, "jwks.json", g.allSets())
	check(t, "discovery.json", discoveries())
}

func check(t *testing.T, name string, v any) {
	t.Helper()
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(name, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not up to date (%v): run go test ./test/vectors -update", name, err)
	}
}

func existingKeys(t *testing.T) []Key {
	t.Helper()
	data, err := os.ReadFile("keys.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var f keyFile
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f.Keys
}

func newKeys(t *testing.T) []Key {
	t.Helper()
	var keys []Key
	add := func(name, algorithm string, private crypto.Signer, err error) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, describe(t, name, algorithm, private))
	}
	for _, name := range []string{"rsa-1", "rsa-2"} {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		add(name, "RS256", k, err)
	}
	for _, name := range []string{"p256-1", "p256-2"} {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		add(name, "ES256", k, err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	add("p384-1", "ES384", k, err)
	return keys
}

func describe(t *testing.T, name, algorithm string, private crypto.Signer) Key {
	t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(pkix)
	return Key{
		Name:      name,
		Algorithm: algorithm,
		KeyID:     b64(sum[:]),
		Private:   string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		Public:    string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})),
	}
}

// generator makes vectors from the keys, always the same ones.
type generator struct {
	t       *testing.T
	keys    map[string]Key
	private map[string]crypto.Signer
}

func newGenerator(t *testing.T, keys []Key) *generator {
	t.Helper()
	g := &generator{t: t, keys: map[string]Key{}, private: map[string]crypto.Signer{}}
	for _, k := range keys {
		block, _ := pem.Decode([]byte(k.Private))
		if block == nil {
			t.Fatalf("key %s is not PEM", k.Name)
		}
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		g.keys[k.Name], g.private[k.Name] = k, private.(crypto.Signer)
	}
	return g
}

// sign appends a signature that is the same each time: PKCS #1 v1.5, or ECDSA by RFC 6979.
func (g *generator) sign(key, header, payload string) string {
	g.t.Helper()
	message := b64([]byte(header)) + "." + b64([]byte(payload))
	hash := crypto.SHA256
	if g.keys[key].Algorithm == "ES384" {
		hash = crypto.SHA384
	}
	h := hash.New()
	h.Write([]byte(message))
	signature, err := g.private[key].Sign(nil, h.Sum(nil), hash)
	if err != nil {
		g.t.Fatal(err)
	}
	if g.keys[key].Algorithm != "RS256" {
		signature = g.fixedSize(signature, hash.Size())
	}
	return message + "." + b64(signature)
}

// fixedSize turns ASN.1 into r and s of the size of the curve, which is the size of the hash for both curves.
func (g *generator) fixedSize(der []byte, size int) []byte {
	g.t.Helper()
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		g.t.Fatal(err)
	}
	out := make([]byte, 2*size)
	v.R.FillBytes(out[:size])
	v.S.FillBytes(out[size:])
	return out
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// raw undoes b64.
func (g *generator) raw(encoded string) []byte {
	g.t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		g.t.Fatal(err)
	}
	return data
}

// swap replaces the first old by new, given in pairs, and panics when there is nothing to replace.
func swap(s string, oldNew ...string) string {
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(s, oldNew[i]) {
			panic(fmt.Sprintf("no %q to replace in %q", oldNew[i], s))
		}
		s = strings.Replace(s, oldNew[i], oldNew[i+1], 1)
	}
	return s
}
