package snapshot

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
	"github.com/keyturn/keyturn/token"
)

// forms returns a private key in every form in which a program could write it.
func forms(t *testing.T, key crypto.Signer) map[string]string {
	t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := json.Marshal(string(quoted))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"PEM":                   text,
		"PEM in JSON":           string(quoted),
		"PEM in JSON in JSON":   string(twice),
		"PEM in base64":         base64.StdEncoding.EncodeToString([]byte(text)),
		"PEM in base64url":      base64.RawURLEncoding.EncodeToString([]byte("x" + text)),
		"DER in base64":         base64.StdEncoding.EncodeToString(pkcs8),
		"DER in hex":            hex.EncodeToString(pkcs8),
		"DER in HEX":            strings.ToUpper(hex.EncodeToString(pkcs8)),
		"DER in decimal":        fmt.Sprint(pkcs8),
		"PEM with times before": "2026-01-01T00:00:00Z " + strings.ReplaceAll(text, "\n", "\n2026-01-01T00:00:01Z "),
		"PEM without its end":   strings.Split(text, "-----END")[0],
		"a line of PEM":         strings.Split(text, "\n")[1],
	}
}

func newKey(t *testing.T, algorithm string) (crypto.Signer, kubeadmtest.Traces) {
	t.Helper()
	key, err := token.GenerateKey(rand.Reader, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	traces, err := kubeadmtest.TracesOf(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, traces
}

func TestRedactKeys(t *testing.T) {
	for _, algorithm := range []string{"ES256", "ES384", "RS256"} {
		key, traces := newKey(t, algorithm)
		for form, text := range forms(t, key) {
			got := redactLines("before "+text+" after", nil)
			if traces.In([]byte(got)) || !strings.Contains(got, Redacted) {
				t.Errorf("%s, %s: it becomes\n%s", algorithm, form, got)
			}
			// What is left of a key is no line of it either.
			for line := range strings.Lines(text) {
				if line = strings.TrimSpace(line); len(line) > 30 && !strings.Contains(line, "-----") && strings.Contains(got,
					line) {
					t.Errorf("%s, %s: %q is left", algorithm, form, line)
				}
			}
		}
	}
}

func TestRedact(t *testing.T) {
	const kid = "kO2Yz6m8Cw0bq1nE3vTg5xRj7uLpA9sDfHhJkZcVbNm"
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
	for _, c := range []struct{ name, text, want string }{
		{"words", "rotation of prod waits for node rotate-pool-1-a to be drained", ""},
		{"a pod", "pod keyturn-system/keyturn-controller-7d9f8b6c5d-x2x4z is ready", ""},
		{"a UID", "uid 3f0c2a34-7a5e-4c36-9d0a-1c1b9b6f2a11", ""},
		{"a commit", "commit 61cffe8f0a3b5c7d9e1f2a4b6c8d0e2f4a6b8c0d-dirty", ""},
		{"an image", "registry.example/keyturn@sha256:" + strings.Repeat("0a", 32), ""},
		{"a reason", "KSASigningKeyRotationProcessedReason", ""},
		{"a path", "/apis/keyturn.dev/v1alpha1/namespaces/keyturn-system/userclusters/prod/status", ""},
		{"an error", "requesting a token: Post https://prod:6443/api: connection refused", ""},
		{"a known kid", "signs with " + kid, ""},
		{"a time", "2026-01-01T00:00:00.123456789Z level=INFO", ""},
		{"a JWT", "token " + jwt + " is refused", "token [redacted] is refused"},
		{"a JWT without its signature", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.", "[redacted]"},
		{"a header", "Authorization: Bearer abcdefghijkl", "Authorization: Bearer [redacted]"},
		{"a password", "--password=hunter2hunter2 x", "--password=[redacted] x"},
		{"JSON", `{"token":"abcdefghijkl"}`, `{"token":"[redacted]"}`},
		{"an unknown kid", "signs with x" + kid, "signs with [redacted]"},
		{"hex", "d=" + strings.Repeat("0a", 32), "[redacted]"},
	} {
		want := c.want
		if want == "" {
			want = c.text
		}
		if got := Redact(c.text, map[string]bool{kid: true}); got != want {
			t.Errorf("%s: got %q, want %q", c.name, got, want)
		}
	}
}

func TestLogAfterBlock(t *testing.T) {
	got := redactLines("a\nb -----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY----- c\nd\n", nil)
	if got != "a\nb [redacted]\n[redacted]\nd\n" {
		t.Errorf("got %q", got)
	}
	endless := redactLines("-----BEGIN PRIVATE KEY-----\n"+strings.Repeat("x\n", maxPEM+1)+"last\n", nil)
	if !strings.HasSuffix(endless, "\nx\nlast\n") {
		t.Errorf("a block without an end goes on: %q", endless)
	}
}

// TestScan plants keys and tokens that nothing took out.
func TestScan(t *testing.T) {
	for _, algorithm := range []string{"ES256", "ES384", "RS256"} {
		key, _ := newKey(t, algorithm)
		for form, text := range forms(t, key) {
			switch form {
			case "DER in decimal", "a line of PEM": // Redact alone knows these
				continue
			}
			if err := Scan([]byte("before\n" + text + "\nafter")); err == nil {
				t.Errorf("%s, %s: it is not found", algorithm, form)
			}
		}
	}
	jwt := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlc2lnbmF0dXJl"
	for _, text := range []string{
		jwt, "Bearer abcdefghijklmnop", base64.StdEncoding.EncodeToString([]byte("a " + jwt)),
	} {
		if err := Scan([]byte(text)); err == nil {
			t.Errorf("%q is not found", text)
		}
	}
	for _, text := range []string{
		"", Redacted, "bearer tokens", "-----BEGIN CERTIFICATE-----", strings.Repeat("0", 4096), strings.Repeat("MII", 100),
	} {
		if err := Scan([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte("MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg"))
	f.Fuzz(func(_ *testing.T, content []byte) { _ = Scan(content) })
}
