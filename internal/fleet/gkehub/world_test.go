package gkehub_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	hub "google.golang.org/api/gkehub/v1"
	"google.golang.org/api/option"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

const (
	parent     = "projects/my-project-123/locations/us-central1"
	name       = parent + "/memberships/blue"
	externalID = "0f5ac8ad-8d2b-4c5c-9d1e-0b7f2b8f6a11"
	issuer     = "https://blue.example"
)

// What the tests share, since making RSA keys takes long: the service account, and key versions 1 and 2.
var (
	account = sync.OnceValues(func() ([]byte, fleetserver.Registrar) {
		key, registrar, err := fleetserver.NewServiceAccountKey("https://127.0.0.1/token",
			"register@my-project-123.iam.gserviceaccount.com")
		if err != nil {
			panic(err)
		}
		return key, registrar
	})
	keyPairs = sync.OnceValue(func() []keystore.KeyPair {
		var all []keystore.KeyPair
		for i, algorithm := range []string{jwks.RS256, jwks.ES256} {
			k, err := keystore.Generate(rand.Reader, i+1, algorithm)
			if err != nil {
				panic(err)
			}
			all = append(all, k)
		}
		return all
	})
)

// world is a local fleet behind a front that keeps a log of the requests and may answer instead of it.
type world struct {
	testing.TB
	*fleetserver.Server
	options gkehub.Options
	hub     *hub.ProjectsLocationsMembershipsService
	log     syncBuffer
	ahead   atomic.Int64 // nanoseconds that the clock of everybody is ahead

	mu       sync.Mutex
	requests []string
	shown    []string // access tokens
	fault    faults.Fault
	instead  http.HandlerFunc
}

// newWorld starts a fleet; fault is what it begins with.
func newWorld(t testing.TB, faults ...fleetserver.Faults) *world {
	t.Helper()
	w := &world{TB: t}
	front := httptest.NewUnstartedServer(w)
	front.EnableHTTP2 = true
	front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	front.StartTLS()
	keyFile, registrar := account()
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	w.Server, err = fleetserver.New(fleetserver.Options{
		StateFile: filepath.Join(t.TempDir(), "fleet.json"), Registrars: []fleetserver.Registrar{registrar},
		TokenURI: front.URL + "/token", Now: w.now, Log: log,
	})
	must(t, err)
	t.Cleanup(func() { front.Close(); must(t, w.Close()) })
	w.options = gkehub.Options{
		ProjectID: "my-project-123", Location: "us-central1", Membership: "blue", ExternalID: externalID, Issuer: issuer,
		Endpoint: front.URL, STSEndpoint: front.URL,
		CABundle:        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}),
		CredentialsJSON: withField(t, keyFile, "token_uri", front.URL+"/token"),
		Propagation:     time.Minute, Now: w.now, Log: log,
	}
	w.hub = w.client(front.Client())
	for _, f := range faults {
		w.SetFaults(f)
	}
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// client is a client of somebody else with the same rights.
func (w *world) client(base *http.Client) *hub.ProjectsLocationsMembershipsService {
	w.Helper()
	config, err := google.JWTConfigFromJSON(w.options.CredentialsJSON, hub.CloudPlatformScope)
	must(w.TB, err)
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, base)
	service, err := hub.NewService(ctx, option.WithHTTPClient(config.Client(ctx)),
		option.WithEndpoint(w.options.Endpoint+"/"))
	must(w.TB, err)
	return service.Projects.Locations.Memberships
}

// ServeHTTP notes the request and passes it on, unless the test wants otherwise.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	fault, instead := w.note(r)
	switch {
	case instead != nil:
		instead(rw, r)
	case fault == faults.Failed:
		http.Error(rw, "injected failure", http.StatusServiceUnavailable)
	case fault == faults.FailedButPersisted:
		w.Server.ServeHTTP(httptest.NewRecorder(), r)
		http.Error(rw, "injected failure", http.StatusServiceUnavailable)
	default:
		w.Server.ServeHTTP(rw, r)
	}
}

func (w *world) note(r *http.Request) (fault faults.Fault, instead http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, r.Method+" "+r.URL.Path)
	if _, access, ok := strings.Cut(r.Header.Get("Authorization"), "Bearer "); ok {
		w.shown = append(w.shown, access)
	}
	if isWrite(w.requests[len(w.requests)-1]) {
		fault, w.fault = w.fault, 0
	}
	return fault, w.instead
}

func isWrite(request string) bool {
	return strings.Contains(request, "/memberships") && !strings.HasPrefix(request, "GET ")
}

// answer makes the front answer itself; nil ends that.
func (w *world) answer(instead http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instead = instead
}

func (w *world) fail(fault faults.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = fault
}

// takeRequests are those since the last time.
func (w *world) takeRequests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.requests
	w.requests = nil
	return taken
}

// accessTokens are all that clients have shown.
func (w *world) accessTokens() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.shown)
}

func (w *world) writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, r := range w.requests {
		if isWrite(r) {
			n++
		}
	}
	return n
}

// membership makes one more Membership, with other options if change says so.
func (w *world) membership(change ...func(*gkehub.Options)) *gkehub.Membership {
	w.Helper()
	o := w.options
	for _, c := range change {
		c(&o)
	}
	m, err := gkehub.New(w.Context(), o)
	must(w.TB, err)
	return m
}

// within limits each call of a Membership.
func within(d time.Duration) func(*gkehub.Options) { return func(o *gkehub.Options) { o.Timeout = d } }

// stored reads the membership as somebody else does; nil when there is none.
func (w *world) stored() *hub.Membership {
	w.Helper()
	m, err := w.hub.Get(name).Do()
	if err != nil && strings.Contains(err.Error(), "404") {
		return nil
	}
	must(w.TB, err)
	return m
}

// publishAs replaces the JWKS as somebody else may.
func (w *world) publishAs(keys ...jwks.Key) {
	w.Helper()
	set, err := jwks.NewSet(keys...)
	must(w.TB, err)
	document, err := set.Marshal()
	must(w.TB, err)
	m := &hub.Membership{Authority: &hub.Authority{OidcJwks: base64.StdEncoding.EncodeToString(document)}}
	_, err = w.hub.Patch(name, m).UpdateMask("authority.oidcJwks").Do()
	must(w.TB, err)
}

func (w *world) addKey(k jwks.Key) {
	w.Helper()
	document, err := base64.StdEncoding.DecodeString(w.stored().Authority.OidcJwks)
	must(w.TB, err)
	set, err := jwks.Parse(document)
	must(w.TB, err)
	w.publishAs(append(set.Keys(), k)...)
}

// register makes a membership as somebody else does.
func (w *world) register(m *hub.Membership) {
	w.Helper()
	_, err := w.hub.Create(parent, m).MembershipId("blue").Do()
	must(w.TB, err)
}

// wantSeen compares what is accepted and refused.
func wantSeen(t testing.TB, p fleet.Publisher, accepts, refuses []int) fleet.Observation {
	t.Helper()
	seen, err := p.Observe(t.Context(), keyPairs())
	must(t, err)
	if !slices.Equal(seen.Accepts, accepts) || !slices.Equal(seen.Refuses, refuses) {
		t.Fatalf("observed %+v, want %v accepted and %v refused", seen, accepts, refuses)
	}
	return seen
}

func publish(t testing.TB, p fleet.Publisher, versions ...int) {
	t.Helper()
	must(t, p.Publish(t.Context(), keyPairs(), versions))
}

func pairs(versions ...int) []keystore.KeyPair {
	var keys []keystore.KeyPair
	for _, v := range versions {
		keys = append(keys, keyPairs()[v-1])
	}
	return keys
}

func publicKey(t testing.TB, k keystore.KeyPair) jwks.Key {
	t.Helper()
	key, err := jwks.NewKey(k.Signer.Public())
	must(t, err)
	return key
}

// withField is a JSON object with one member changed.
func withField(t testing.TB, object []byte, name, value string) []byte {
	t.Helper()
	var members map[string]string
	must(t, json.Unmarshal(object, &members))
	members[name] = value
	changed, err := json.Marshal(members)
	must(t, err)
	return changed
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// syncBuffer is a buffer that several goroutines write to.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
