package fleetserver_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/api/gkehub/v1"
	"google.golang.org/api/option"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// runCommand tells the test binary to be keyturn-fleet.
const runCommand = "KEYTURN_TEST_RUN_FLEET"

// What all tests share: making RSA keys takes long.
var (
	files struct{ cert, key string }

	accountKey []byte
	registrar  fleetserver.Registrar

	first, second, rsaKey, p384, stranger keystore.KeyPair
)

const (
	project = "demo-project"
	parent  = "projects/demo-project/locations/global"
	issuer  = "https://issuer.example"
	email   = "register@demo-project.iam.gserviceaccount.com"
)

func TestMain(m *testing.M) {
	if os.Getenv(runCommand) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(fleetserver.Run(ctx, os.Args[1:], os.Stderr))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyturn-fleet")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	writeCertificate(dir)
	accountKey, registrar, err = fleetserver.NewServiceAccountKey("https://127.0.0.1/token", email)
	if err != nil {
		panic(err)
	}
	first, second, stranger = newKey(1, jwks.ES256), newKey(2, jwks.ES256), newKey(3, jwks.ES256)
	rsaKey, p384 = newKey(4, jwks.RS256), newKey(5, jwks.ES384)
	return m.Run()
}

// writeCertificate writes the certificate of all test servers, and makes it one that every client trusts.
func writeCertificate(dir string) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	certificate := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		panic(err)
	}
	files.cert, files.key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, block := range map[string]*pem.Block{
		files.cert: {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]},
		files.key:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			panic(err)
		}
	}
	os.Setenv("SSL_CERT_FILE", files.cert) // read at the first handshake
}

func newKey(version int, algorithm string) keystore.KeyPair {
	if algorithm == jwks.ES384 { // which no cluster uses
		signer, err := token.GenerateKey(rand.Reader, algorithm)
		if err != nil {
			panic(err)
		}
		kid, err := jwks.KeyID(signer.Public())
		if err != nil {
			panic(err)
		}
		return keystore.KeyPair{Version: version, Algorithm: algorithm, KeyID: kid, Signer: signer}
	}
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		panic(err)
	}
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keySet is the JWKS of keys.
func keySet(t testing.TB, keys ...keystore.KeyPair) []byte {
	t.Helper()
	var all []jwks.Key
	for _, k := range keys {
		all = append(all, jwks.Key{KeyID: k.KeyID, Algorithm: k.Algorithm, Public: k.Signer.Public()})
	}
	set, err := jwks.NewSet(all...)
	must(t, err)
	document, err := set.Marshal()
	must(t, err)
	return document
}

func encoded(document []byte) string { return base64.StdEncoding.EncodeToString(document) }

// fleet is a server, its clock and a client of each kind.
type fleet struct {
	testing.TB
	*fleetserver.Server
	options fleetserver.Options
	ahead   atomic.Int64
	log     *logBuffer
	url     string
	key     []byte
	hub     *gkehub.Service
	close   func()
}

type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func newFleet(t testing.TB, change ...func(*fleetserver.Options)) *fleet {
	t.Helper()
	f := &fleet{TB: t, log: &logBuffer{}}
	f.options = fleetserver.Options{
		StateFile: filepath.Join(t.TempDir(), "fleet.json"), Registrars: []fleetserver.Registrar{registrar},
		Now: f.now, Log: slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&f.options)
	}
	f.start()
	t.Cleanup(func() { f.close() })
	return f
}

// now is the time on the server. Clients have the real one.
func (f *fleet) now() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }

func (f *fleet) advance(d time.Duration) { f.ahead.Add(int64(d)) }

func (f *fleet) start() {
	f.Helper()
	var handler atomic.Pointer[fleetserver.Server]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.Load().ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	f.url = server.URL
	f.options.TokenURI = f.url + "/token"
	var err error
	f.Server, err = fleetserver.New(f.options)
	must(f.TB, err)
	handler.Store(f.Server)
	f.close = func() { server.Close(); must(f.TB, f.Server.Close()) }
	f.key = keyFor(f.TB, f.options.TokenURI)
	f.hub = newHub(f.TB, f.url, f.key)
}

// reopen ends the server and begins another with the same files.
func (f *fleet) reopen() {
	f.Helper()
	f.close()
	f.start()
}

// keyFor is the account's key file for a server.
func keyFor(t testing.TB, tokenURI string) []byte {
	t.Helper()
	var object map[string]string
	must(t, json.Unmarshal(accountKey, &object))
	object["token_uri"] = tokenURI
	key, err := json.Marshal(object)
	must(t, err)
	return key
}

// newHub returns Google's own client, which trades the key for an access token without our help.
func newHub(t testing.TB, url string, key []byte) *gkehub.Service {
	t.Helper()
	hub, err := gkehub.NewService(t.Context(), option.WithEndpoint(url+"/"),
		option.WithAuthCredentialsJSON(option.ServiceAccount, key))
	must(t, err)
	return hub
}

func (f *fleet) memberships() *gkehub.ProjectsLocationsMembershipsService {
	return f.hub.Projects.Locations.Memberships
}

// register creates a membership whose issuer is the one of the tests.
func (f *fleet) register(id string, keys ...keystore.KeyPair) {
	f.Helper()
	m := &gkehub.Membership{Authority: &gkehub.Authority{Issuer: issuer, OidcJwks: encoded(keySet(f.TB, keys...))}}
	_, err := f.memberships().Create(parent, m).MembershipId(id).Do()
	must(f.TB, err)
}

// publish replaces the keys of a membership.
func (f *fleet) publish(id string, keys ...keystore.KeyPair) {
	f.Helper()
	m := &gkehub.Membership{Authority: &gkehub.Authority{OidcJwks: encoded(keySet(f.TB, keys...))}}
	_, err := f.memberships().Patch(name(id), m).UpdateMask("authority.oidcJwks").Do()
	must(f.TB, err)
}

func name(id string) string { return parent + "/memberships/" + id }

func audience(id string) string {
	return "identitynamespace:" + project + ".svc.id.goog:https://gkehub.googleapis.com/" + name(id)
}

// claims returns the claims of a token that is good at a time.
func claims(now time.Time) token.Claims {
	account := token.Kubernetes{Namespace: "shop", ServiceAccount: token.Ref{Name: "till", UID: "u"}}
	return token.NewBoundClaims(issuer, []string{project + ".svc.id.goog"}, account, now, 30*time.Minute)
}

func sign(t testing.TB, k keystore.KeyPair, claims any) string {
	t.Helper()
	signed, err := token.Sign(rand.Reader, k.Signer, k.Algorithm, k.KeyID, claims)
	must(t, err)
	return signed
}

// good is a token that is accepted by those who know the key.
func (f *fleet) good(k keystore.KeyPair) string { return sign(f.TB, k, claims(f.now())) }

// form is a whole request for an exchange.
func form(id, subject string) url.Values {
	return url.Values{
		"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"audience":             {audience(id)},
		"scope":                {"https://www.googleapis.com/auth/cloud-platform"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token":        {subject},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
	}
}

// answer is any JSON answer.
type answer struct {
	status int
	body   string
	header http.Header

	AccessToken string `json:"access_token"`
	ExpiresIn   int64  `json:"expires_in"`
	TokenType   string `json:"token_type"`
	IssuedType  string `json:"issued_token_type"`
	Description string `json:"error_description"`
	Error       any    `json:"error"`
	Principal   string `json:"principal"`
	Scope       string `json:"scope"`
	ExpiresAt   time.Time
}

// send sends a request without the machinery of a server or a client.
func (f *fleet) send(r *http.Request) answer {
	f.Helper()
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	a := answer{status: w.Code, body: w.Body.String(), header: w.Header()}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		f.Fatalf("%s answered %q: %v", r.URL.Path, a.body, err)
	}
	return a
}

func (f *fleet) post(path string, values url.Values) answer {
	f.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return f.send(r)
}

func (f *fleet) exchange(id, subject string) answer {
	f.Helper()
	return f.post("/v1/token", form(id, subject))
}

func (f *fleet) whoami(accessToken string) answer {
	f.Helper()
	r := httptest.NewRequest(http.MethodGet, "/v1/whoami", nil)
	r.Header.Set("Authorization", "Bearer "+accessToken)
	return f.send(r)
}

// accepts reports whether the STS accepts a key.
func (f *fleet) accepts(id string, k keystore.KeyPair) bool {
	f.Helper()
	a := f.exchange(id, f.good(k))
	if a.status != http.StatusOK && a.status != http.StatusBadRequest {
		f.Fatalf("exchange: %d %s", a.status, a.body)
	}
	return a.status == http.StatusOK
}

// craft makes a token of any header, signed in any way.
func craft(t testing.TB, header map[string]any, claims any, signature func(signed []byte) []byte) string {
	t.Helper()
	h, err := json.Marshal(header)
	must(t, err)
	c, err := json.Marshal(claims)
	must(t, err)
	signed := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature([]byte(signed)))
}

// signedAs signs with a key and says any header.
func signedAs(t testing.TB, header map[string]any, k keystore.KeyPair, c any) string {
	t.Helper()
	return craft(t, header, c, func(signed []byte) []byte {
		h := crypto.SHA256.New()
		h.Write(signed)
		raw, err := k.Signer.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
		must(t, err)
		if k.Algorithm == jwks.RS256 {
			return raw
		}
		return concatenated(t, raw)
	})
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}
