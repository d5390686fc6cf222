package keyfile_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/keyturn/keyturn/internal/keyfile"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
	"github.com/keyturn/keyturn/token"
)

// good is a private key as it should be.
func good(t testing.TB, name string) string {
	t.Helper()
	for _, k := range vectors.Keys() {
		if k.Name == name {
			return k.Private
		}
	}
	t.Fatalf("there is no key %s", name)
	return ""
}

func inUTF16(s string) string {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(out)
}

func der(s string) string {
	block, _ := pem.Decode([]byte(s))
	return string(block.Bytes)
}

// manglings are what happens to good files, and how it is to be explained.
var manglings = []struct {
	what   string
	mangle func(string) string
}{
	{"begins with a byte order mark", func(s string) string { return "\ufeff" + s }},
	{"is text in UTF-16", inUTF16},
	{`has the two characters \n`, func(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }},
	{"has its PEM block on one line", func(s string) string { return strings.ReplaceAll(s, "\n", " ") }},
	{"has its PEM block on one line", func(s string) string { return strings.ReplaceAll(s, "\n", "") }},
	{"ends its lines as old Macintoshes did", func(s string) string { return strings.ReplaceAll(s, "\n", "\r") }},
	{"is indented", func(s string) string { return "key: |\n  " + strings.ReplaceAll(s, "\n", "\n  ") }},
	{"is indented", func(s string) string { return "\t" + strings.ReplaceAll(s, "\n", "\n\t") }},
	{"is PEM in base64", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }},
	{"is a private key in DER", der},
	{"has something after its PEM block", func(s string) string { return s + "# of cluster blue\n" }},
	{"holds something else after its private key", func(s string) string { return s + certificate }},
	{"holds something else before its private key", func(s string) string { return certificate + s }},
	{"holds something else before its private key", func(s string) string { return publicKey + s }},
	{"holds several private keys", func(s string) string { return s + s }},
	{"ends before its PEM block does", func(s string) string { return s[:len(s)/2] }},
	{"has a broken PEM block", func(s string) string { return strings.Replace(s, "\n", "\n!", 1) }},
	{"has something before its PEM block, on the same line", func(s string) string { return `"` + s + `"` }},
	{"is empty", func(string) string { return "\n" }},
	{"is not PEM", func(string) string { return "hello" }},
	{"is JSON", func(string) string { return `{"kty": "EC"}` }},
	{"is the public key of SSH", func(string) string { return "ssh-rsa AAAAB3 me@example.com" }},
	{"is a public key, where a private key is wanted", func(string) string { return publicKey }},
	{"is a certificate, where a private key is wanted", func(string) string { return certificate }},
	{"is a public key in DER", func(string) string { return der(publicKey) }},
	{"is a certificate in DER", func(string) string { return der(certificate) }},
	{"holds the parameters of a key, and no key", func(string) string {
		return "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	}},
	{"is PEM of another type", func(string) string {
		return strings.ReplaceAll(certificate, "CERTIFICATE", "DH PARAMETERS")
	}},
	{
		"neither RSA nor ECDSA",
		func(string) string { return strings.ReplaceAll(certificate, "CERTIFICATE", "DSA PRIVATE KEY") },
	},
	{"holds a private key that is broken", func(string) string {
		return strings.ReplaceAll(certificate, "CERTIFICATE", "PRIVATE KEY")
	}},
}

const (
	publicKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEG06wXmLJgFS0vOThAOMgkP+f/pXr
9d5YBX8VMYHbN+GbK7tjbYwWEZAONX+Oep/fX/s4S4fvpPxW97nXd013Bw==
-----END PUBLIC KEY-----
`
	certificate = `-----BEGIN CERTIFICATE-----
MIIBcjCCARmgAwIBAgIUPTdZJt4O+zHp8adaAHx0uKSYhzgwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMjcwMzA5MTlaFw0zNjExMjQwMzA5MTla
MA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQbTrBe
YsmAVLS85OEA4yCQ/5/+lev13lgFfxUxgds34Zsru2NtjBYRkA41f456n99f+zhL
h++k/Fb3udd3TXcHo1MwUTAdBgNVHQ4EFgQU0nuh+hJqrjlNUp/eY2+dBR/Bvy8w
HwYDVR0jBBgwFoAU0nuh+hJqrjlNUp/eY2+dBR/Bvy8wDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNHADBEAiA0Yi8Oehq2q2G25aLV/T//s9jyPZiZx3scAXGS
uDm2RwIgMje2k3J1atO4sfefUup2IKMdw0WYfis7s7uEm/BLmlo=
-----END CERTIFICATE-----
`
)

func TestPrivate(t *testing.T) {
	for _, name := range []string{"p256-1", "rsa-1"} {
		for _, m := range manglings {
			data := []byte(m.mangle(good(t, name)))
			_, err := token.ParsePrivateKey(data)
			if err == nil || !strings.Contains(err.Error(), m.what) {
				t.Errorf("of %s, %q is not told: %v", name, m.what, err)
				continue
			}
			tryFix(t, data, keyfile.Private(data))
		}
	}
}

var command = regexp.MustCompile("`([^`]*)`")

// tryFix carries out what an error advises, unless that needs a program which this machine lacks: the file that it
// writes has to hold the key.
func tryFix(t *testing.T, data []byte, e *keyfile.Error) {
	t.Helper()
	found := command.FindStringSubmatch(e.Fix)
	if found == nil {
		return
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "FILE"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	program, _, _ := strings.Cut(found[1], " ")
	if _, err := exec.LookPath(program); err != nil {
		t.Logf("not tried, since this machine has no %s: %s", program, found[1])
		return
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", found[1])
	cmd.Dir, cmd.Stdin = dir, strings.NewReader("")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %s: %v\n%s", e.What, found[1], err, out)
		return
	}
	written, err := os.ReadFile(filepath.Join(dir, "KEY.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.ParsePrivateKey(written); err != nil {
		if _, public := jwks.ParsePublicKey(written); public != nil {
			t.Errorf("%s: %s makes a file that is refused too: %v", e.What, found[1], err)
		}
	}
}

// TestOpenSSL has the keys that only other programs make.
func TestOpenSSL(t *testing.T) {
	for file, what := range map[string]string{
		"encrypted-traditional.pem": "is encrypted",
		"encrypted-pkcs8.pem":       "is encrypted",
		"openssh.pem":               "is a private key in the format of OpenSSH",
		"explicit.pem":              "spells out its elliptic curve",
		"explicit-pkcs8.pem":        "spells out its elliptic curve",
		"secp256k1.pem":             "an elliptic curve that is neither P-256 nor P-384",
		"secp256k1-pkcs8.pem":       "an elliptic curve that is neither P-256 nor P-384",
		"pss.pem":                   "RSA-PSS",
		"x25519.pem":                "neither RSA nor ECDSA",
		"ed25519.pem":               "neither RSA nor ECDSA",
	} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := token.ParsePrivateKey(data); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v, want that it says %q", file, err, what)
		}
		if e := keyfile.Private(data); !strings.Contains(e.What, "encrypted") { // that asks for a password
			tryFix(t, data, e)
		}
	}
}

func TestPublic(t *testing.T) {
	for _, test := range []struct{ what, data string }{
		{"is a private key, where a public key is wanted", good(t, "rsa-1")},
		{"is a certificate", certificate},
		{"has something after its PEM block", publicKey + publicKey},
		{"is a public key in PKCS #1 form", strings.ReplaceAll(publicKey, "PUBLIC", "RSA PUBLIC")},
		{"is PEM of another type", strings.ReplaceAll(publicKey, "PUBLIC KEY", "CERTIFICATE REQUEST")},
		{"is not in PKIX form", strings.ReplaceAll(certificate, "CERTIFICATE", "PUBLIC KEY")},
		{"begins with a byte order mark", "\ufeff" + publicKey},
		{"is indented", "  " + publicKey},
		{`has the two characters \n`, strings.ReplaceAll(publicKey, "\n", `\n`)},
		{"is empty", ""},
	} {
		_, err := jwks.ParsePublicKey([]byte(test.data))
		if err == nil || !strings.Contains(err.Error(), test.what) {
			t.Errorf("%q is not told: %v", test.what, err)
		}
	}
}

// FuzzPrivate has anything explained. The explanation is one short line that quotes nothing of the file.
func FuzzPrivate(f *testing.F) {
	for _, m := range manglings {
		f.Add([]byte(m.mangle(good(f, "p256-1"))))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, e := range []*keyfile.Error{keyfile.Private(data), keyfile.Public(data)} {
			text := e.Error()
			if e.What == "" || len(text) > 250 || strings.ContainsAny(text, "\n\r") {
				t.Errorf("%q", text)
			}
			for word := range bytes.FieldsSeq(data) {
				if len(word) == 64 && strings.Contains(text, string(word[:16])) {
					t.Errorf("%q quotes the file", text)
				}
			}
		}
	})
}
