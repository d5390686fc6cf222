package kubeadmtest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/keyturn/keyturn/token"
)

// TestTraces looks for keys in every form that people and programs give them.
func TestTraces(t *testing.T) {
	for _, algorithm := range []string{"ES256", "ES384", "RS256"} {
		key, err := token.GenerateKey(rand.Reader, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		other, err := token.GenerateKey(rand.Reader, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		traces, err := TracesOf(key)
		if err != nil {
			t.Fatal(err)
		}
		others, err := TracesOf(other)
		if err != nil {
			t.Fatal(err)
		}
		secret, encodings, err := secretOf(key)
		if err != nil {
			t.Fatal(err)
		}
		forms := map[string]string{
			"the number": string(secret), "hex": hex.EncodeToString(secret),
			"JWK": `{"kty":"EC","d":"` + base64.RawURLEncoding.EncodeToString(secret) + `"}`,
		}
		for i, kind := range []string{"traditional ", "PKCS #8 "} {
			text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encodings[i]}))
			quoted, err := json.Marshal(text)
			if err != nil {
				t.Fatal(err)
			}
			forms[kind+"DER"] = string(encodings[i])
			forms[kind+"DER in base64"] = base64.StdEncoding.EncodeToString(encodings[i])
			forms[kind+"PEM"] = text
			forms[kind+"PEM in JSON"] = string(quoted)
			for _, before := range []string{"", "-", "--"} {
				forms[kind+"PEM in base64 after "+before] = base64.StdEncoding.EncodeToString([]byte(before + text))
			}
		}
		for form, content := range forms {
			if !traces.In([]byte("before" + content + "after")) {
				t.Errorf("%s: %s is not found", algorithm, form)
			}
			if others.In([]byte(content)) {
				t.Errorf("%s: %s is taken for another key", algorithm, form)
			}
		}
	}
}
