package probe

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/gkehub/v1"
	"google.golang.org/api/option"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

const (
	fleetIssuer = "https://blue.example"
	fleetParent = "projects/my-project-123/locations/us-central1"
)

// member is a pod with a workload identity, and the STS that it goes to.
type member struct {
	*testing.T
	sts      *httptest.Server
	file     string
	options  workloadIdentityOptions
	identity *identity
	rec      *recorder
}

// newMember readies a pod of the credentials that Manifests gives it, but for the path of its token.
func newMember(t *testing.T, sts *httptest.Server) *member {
	t.Helper()
	dir := t.TempDir()
	m := &member{T: t, sts: sts, file: filepath.Join(dir, "token"), rec: newRecorder("p", "n", time.Now())}
	m.options = workloadIdentityOptions{
		CredentialsFile: filepath.Join(dir, "credentials.json"), CAFile: filepath.Join(dir, "ca.crt"),
		Resource: sts.URL + "/v1/whoami",
	}
	w := &WorkloadIdentityDeployment{ProjectID: "my-project-123", Location: "us-central1", Membership: "blue",
		STSEndpoint: sts.URL}
	content, err := w.Credentials()
	must(t, err)
	must(t, os.WriteFile(m.options.CredentialsFile, []byte(strings.Replace(content, identityTokenFile, m.file, 1)), 0o600))
	must(t, os.WriteFile(m.options.CAFile, certificateOf(sts), 0o600))
	m.mount("")
	m.identity, err = newIdentity(m.options, 30*time.Second)
	must(t, err)
	return m
}

func certificateOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// mount replaces the file of the token at once, as kubelet does.
func (m *member) mount(bearer string) {
	m.Helper()
	must(m.T, os.WriteFile(m.file+".new", []byte(bearer), 0o600))
	must(m.T, os.Rename(m.file+".new", m.file))
}

// use uses the workload identity once, and returns all that was recorded.
func (m *member) use() Line {
	m.Helper()
	u := &user{server: m.identity.server(), files: Files{identity: m.identity.tokenFile}, identity: m.identity, rec: m.rec}
	u.use(m.Context(), WorkloadIdentity)
	return line(m.rec.snapshot(), WorkloadIdentity, m.sts.URL)
}

// wants checks how often tokens of a key were used.
func (m *member) wants(l Line, k key, want Counts) {
	m.Helper()
	if got := l.KeyIDs[k.id]; got != want {
		m.Errorf("uses of tokens of key %s: %+v, want %+v", k.id, got, want)
	}
}

// poolToken is a token of the membership's issuer for the workload identity pool.
func poolToken(t *testing.T, k key) string {
	t.Helper()
	account := token.Kubernetes{Namespace: "keyturn-probe", ServiceAccount: token.Ref{Name: "keyturn-probe", UID: "u"}}
	claims := token.NewBoundClaims(fleetIssuer, []string{"my-project-123.svc.id.goog"}, account, time.Now(), time.Hour)
	signed, err := token.Sign(rand.Reader, k.Signer, "ES256", k.id, claims)
	must(t, err)
	return signed
}

// fleet is a local fleet with one membership.
type fleet struct {
	*testing.T
	*fleetserver.Server
	front       *httptest.Server
	memberships *gkehub.ProjectsLocationsMembershipsService
}

// newFleet registers the membership, whose tokens are of these keys, by Google's own client.
func newFleet(t *testing.T, keys ...key) *fleet {
	t.Helper()
	f := &fleet{T: t}
	f.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.ServeHTTP(w, r)
	}))
	tokenURI := "https://" + f.front.Listener.Addr().String() + "/token"
	account, registrar, err := fleetserver.NewServiceAccountKey(tokenURI,
		"register@my-project-123.iam.gserviceaccount.com")
	must(t, err)
	f.Server, err = fleetserver.New(fleetserver.Options{
		StateFile: filepath.Join(t.TempDir(), "fleet.json"), Registrars: []fleetserver.Registrar{registrar},
		TokenURI: tokenURI,
	})
	must(t, err)
	f.front.StartTLS()
	t.Cleanup(func() { f.front.Close(); must(t, f.Close()) })
	config, err := google.JWTConfigFromJSON(account, gkehub.CloudPlatformScope)
	must(t, err)
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, f.front.Client())
	service, err := gkehub.NewService(ctx, option.WithHTTPClient(config.Client(ctx)), option.WithEndpoint(f.front.URL+"/"))
	must(t, err)
	f.memberships = service.Projects.Locations.Memberships
	m := &gkehub.Membership{Authority: &gkehub.Authority{Issuer: fleetIssuer, OidcJwks: keySet(t, keys)}}
	_, err = f.memberships.Create(fleetParent, m).MembershipId("blue").Do()
	must(t, err)
	return f
}

// publish replaces the keys of the membership.
func (f *fleet) publish(keys ...key) {
	f.Helper()
	m := &gkehub.Membership{Authority: &gkehub.Authority{OidcJwks: keySet(f.T, keys)}}
	_, err := f.memberships.Patch(fleetParent+"/memberships/blue", m).UpdateMask("authority.oidcJwks").Do()
	must(f.T, err)
}

func keySet(t *testing.T, keys []key) string {
	t.Helper()
	var all []jwks.Key
	for _, k := range keys {
		public, err := jwks.NewKey(k.Public())
		must(t, err)
		all = append(all, public)
	}
	set, err := jwks.NewSet(all...)
	must(t, err)
	document, err := set.Marshal()
	must(t, err)
	return base64.StdEncoding.EncodeToString(document)
}

// reply is an answer of the STS or of the resource.
type reply struct {
	status int
	body   string
}

// goodExchange grants this access token.
const (
	accessToken  = "ya29.an-access-token-that-is-long-enough-to-be-a-real-one-0123456789"
	goodExchange = `{"access_token":"` + accessToken + `","token_type":"Bearer","expires_in":3600,` +
		`"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`
)

// unlikely is an STS and a resource that answer as no real one can be made to. It counts exchanges.
func unlikely(t *testing.T, sts, resource func(sent string) reply) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var exchanges atomic.Int64
	answer := func(w http.ResponseWriter, r reply) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(r.status)
		fmt.Fprint(w, r.body)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/token", func(w http.ResponseWriter, r *http.Request) {
		exchanges.Add(1)
		answer(w, sts(r.PostFormValue("subject_token")))
	})
	mux.HandleFunc("POST /v1/impersonate", func(w http.ResponseWriter, r *http.Request) {
		answer(w, resource(r.Header.Get("Authorization")))
	})
	mux.HandleFunc("GET /v1/whoami", func(w http.ResponseWriter, r *http.Request) {
		answer(w, resource(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
	})
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("followed a redirect with %s", r.Method)
		answer(w, reply{http.StatusOK, goodExchange})
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	return server, &exchanges
}
