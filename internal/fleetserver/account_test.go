package fleetserver_test

import (
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// accountPair is the account's private key.
func accountPair(t testing.TB) keystore.KeyPair {
	t.Helper()
	config, err := google.JWTConfigFromJSON(accountKey)
	must(t, err)
	signer, err := token.ParsePrivateKey(config.PrivateKey)
	must(t, err)
	return keystore.KeyPair{Signer: signer, Algorithm: jwks.RS256, KeyID: config.PrivateKeyID}
}

// assertion is the claims of a good assertion, with changes. A nil value takes a claim away.
func (f *fleet) assertion(change map[string]any) map[string]any {
	now := f.now().Unix()
	c := map[string]any{
		"iss": email, "aud": f.options.TokenURI, "iat": now, "exp": now + 3600,
		"scope": "https://www.googleapis.com/auth/cloud-platform",
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, value any) bool { return value == nil })
	return c
}

func (f *fleet) assert(assertion string) answer {
	f.Helper()
	return f.post("/token",
		url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}})
}

// account gets an access token of the registrar.
func (f *fleet) account(change map[string]any) answer {
	f.Helper()
	return f.assert(sign(f.TB, accountPair(f.TB), f.assertion(change)))
}

// TestServiceAccountKey is read by the older of Google's two libraries; the newer one is below every gkehub client
// here.
func TestServiceAccountKey(t *testing.T) {
	f := newFleet(t)
	credentials, err := google.CredentialsFromJSONWithType(t.Context(), f.key, google.ServiceAccount,
		"https://www.googleapis.com/auth/cloud-platform")
	must(t, err)
	if credentials.ProjectID != project {
		t.Errorf("project %q", credentials.ProjectID)
	}
	response, err := oauth2.NewClient(t.Context(), credentials.TokenSource).Get(f.url + "/v1/whoami")
	must(t, err)
	defer response.Body.Close()
	if body := readAll(t, response.Body); response.StatusCode != http.StatusOK ||
		!strings.Contains(body, `"principal":"`+email+`"`) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

func TestRefusedAssertions(t *testing.T) {
	f := newFleet(t)
	now, good := f.now().Unix(), accountPair(t)
	kid := func(kid string) keystore.KeyPair {
		k := good
		k.KeyID = kid
		return k
	}
	other := rsaKey
	other.KeyID = good.KeyID
	for what, assertion := range map[string]string{
		"nothing":     "",
		"not a token": "a.b.c",
		"alg none": craft(t, map[string]any{"alg": "none", "kid": good.KeyID}, f.assertion(nil),
			func([]byte) []byte { return nil }),
		"RS384": signedAs(t, map[string]any{"alg": "RS384", "kid": good.KeyID}, good, f.assertion(nil)),
		"crit": signedAs(t, map[string]any{"alg": "RS256", "kid": good.KeyID, "crit": []string{"x"}}, good,
			f.assertion(nil)),
		"another key":        sign(t, other, f.assertion(nil)),
		"unknown kid":        sign(t, kid("nobody"), f.assertion(nil)),
		"unknown account":    sign(t, good, f.assertion(map[string]any{"iss": "other@demo-project.iam.gserviceaccount.com"})),
		"no account":         sign(t, good, f.assertion(map[string]any{"iss": nil})),
		"another audience":   sign(t, good, f.assertion(map[string]any{"aud": "https://oauth2.googleapis.com/token"})),
		"two audiences":      sign(t, good, f.assertion(map[string]any{"aud": []string{f.options.TokenURI, "x"}})),
		"no audience":        sign(t, good, f.assertion(map[string]any{"aud": nil})),
		"expired":            sign(t, good, f.assertion(map[string]any{"iat": now - 3600, "exp": now})),
		"no exp":             sign(t, good, f.assertion(map[string]any{"exp": nil})),
		"no iat":             sign(t, good, f.assertion(map[string]any{"iat": nil})),
		"longer than 1 hour": sign(t, good, f.assertion(map[string]any{"iat": now, "exp": now + 3601})),
		"issued later":       sign(t, good, f.assertion(map[string]any{"iat": now + 60})),
		"too long": sign(t, good,
			f.assertion(map[string]any{"x": strings.Repeat("x", 11<<10)})) + strings.Repeat("x", 5<<10),
		"a KSA token": f.good(first),
	} {
		if a := f.assert(assertion); a.status != http.StatusBadRequest || a.Error != "invalid_grant" || a.AccessToken != "" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	if a := f.account(map[string]any{"sub": "boss@example.com"}); a.Error != "unauthorized_client" {
		t.Errorf("for another: %d %s", a.status, a.body)
	}
	if a := f.account(map[string]any{"scope": nil}); a.Error != "invalid_scope" {
		t.Errorf("no scope: %d %s", a.status, a.body)
	}
	if a := f.post("/token", url.Values{"assertion": {"x"}}); a.Error != "unsupported_grant_type" {
		t.Errorf("no grant type: %d %s", a.status, a.body)
	}
	if a := f.account(nil); a.status != http.StatusOK || a.TokenType != "Bearer" || a.ExpiresIn != 3600 {
		t.Errorf("good: %d %s", a.status, a.body)
	}
}

// TestAssertionsAreNoSubjects uses each kind of token at the endpoint of the other.
func TestAssertionsAreNoSubjects(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	if a := f.exchange("m", sign(t, accountPair(t), f.assertion(nil))); a.Error != "invalid_grant" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRegistrarsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registrars.json")
	content, err := fleetserver.MarshalRegistrars([]fleetserver.Registrar{registrar})
	must(t, err)
	must(t, os.WriteFile(path, content, 0o600))
	got, err := fleetserver.LoadRegistrars(path)
	if must(t, err); !slices.Equal(got, []fleetserver.Registrar{registrar}) {
		t.Errorf("%+v", got)
	}
	ecPEM, err := jwks.MarshalPublicKey(first.Signer.Public())
	must(t, err)
	for what, content := range map[string]string{
		"nothing": "", "not JSON": "x", "unknown member": `{"registrar":[]}`, "more": string(content) + "{}",
		"no key":      `{"registrars":[{"client_email":"e","private_key_id":"k"}]}`,
		"private key": strings.ReplaceAll(string(content), "PUBLIC KEY", "PRIVATE KEY"),
		"EC key": `{"registrars":[{"client_email":"e","private_key_id":"k","public_key":"` + strings.ReplaceAll(
			string(ecPEM), "\n", `\n`,
		) + `"}]}`,
		"no email": strings.Replace(string(content), email, "", 1),
	} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if all, err := fleetserver.LoadRegistrars(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", what, all, err)
		}
	}
}

func TestNewServiceAccountKeyRefuses(t *testing.T) {
	for _, args := range [][2]string{
		{"http://127.0.0.1/token", email}, {"", email}, {"https://127.0.0.1/token", "nobody"},
		{"https://127.0.0.1/token", ""},
	} {
		if key, _, err := fleetserver.NewServiceAccountKey(args[0], args[1]); err == nil || key != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}
