package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/token"
)

// What verifies tokens outside of a cluster here is code that is not ours: golang.org/x/oauth2 trades them at the
// fleet, and go-oidc verifies them by discovery documents.

const (
	project = "my-project"
	pool    = project + ".svc.id.goog"
)

func (p *place) fleetEndpoint() string {
	return "https://" + strings.TrimSuffix(p.network, "0.0/16") + "0.5:8443"
}

// gkeConnect is the part of a config file that registers the cluster with the local fleet.
func (p *place) gkeConnect() string {
	return fmt.Sprintf(`gkeConnect:
  projectID: %s
  location: global
  registerServiceAccountKeyPath: connect-register-sa.json
  endpoint: %q
  stsEndpoint: %[2]q
  certificateAuthorityPath: fleet-ca.crt
`, project, p.fleetEndpoint())
}

func (p *place) identityFlags() []string {
	return []string{
		"--workload-identity-project", project, "--workload-identity-location", "global", "--workload-identity-membership", "e2e",
		"--workload-identity-sts", p.fleetEndpoint(), "--workload-identity-resource", p.fleetEndpoint() + "/v1/whoami",
		"--workload-identity-ca-file", filepath.Join(p.dir, "fleet-ca.crt"),
	}
}

// exchange trades a token at the fleet as a workload does, and uses what it gets.
func (p *place) exchange(t *testing.T, subject string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(subject), 0o600); err != nil {
		t.Fatal(err)
	}
	credentials, err := json.Marshal(map[string]any{
		"type": "external_account", "universe_domain": "googleapis.com",
		"audience":           fmt.Sprintf("identitynamespace:%s:https://gkehub.googleapis.com/projects/%s/locations/global/memberships/e2e", pool, project),
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url":          p.fleetEndpoint() + "/v1/token",
		"credential_source":  map[string]string{"file": file},
	})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(p.dir, "fleet-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, client)
	found, err := google.CredentialsFromJSONWithType(ctx, credentials, google.ExternalAccount, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := oauth2.NewClient(ctx, found.TokenSource).Get(p.fleetEndpoint() + "/v1/whoami")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the access token is answered with %s", answer.Status)
	}
	return nil
}

// expectFleetRefuses checks that the fleet knows the key of a token no more. The fleet itself may just have been
// killed.
func (p *place) expectFleetRefuses(t *testing.T, old string) {
	t.Helper()
	p.eventually("trading a token of the old key", func(context.Context) error {
		err := p.exchange(t, old)
		if err == nil {
			t.Error("the fleet gives an access token for a token of the old key")
			return nil
		}
		if !strings.Contains(err.Error(), "invalid_grant") {
			return err
		}
		return nil
	})
}

// expectPublished checks what the status reports about the destinations outside the cluster.
func (p *place) expectPublished(t *testing.T, version, places int) {
	t.Helper()
	all := p.cluster("e2e").Status.Publications
	wrong := slices.ContainsFunc(all, func(s v1alpha1.PublicationStatus) bool {
		return !slices.Equal(s.AcceptedVersions, []int32{int32(version)}) || s.WaitingFor != ""
	})
	if len(all) != places || wrong {
		t.Errorf("publications are %+v, want %d that accept key version %d only", all, places, version)
	}
}

// verifier verifies tokens all the time, as somebody who knows the issuer only.
type verifier struct {
	name                  string
	mu                    sync.Mutex
	verified, unavailable int
	keys                  map[string]bool
	refused               []string
}

// startVerifying mints a token every tenth of a second and has go-oidc verify it, with one key set that is kept all the
// while. The client finds the issuer's documents, regardless of where their URLs lead.
func (p *place) startVerifying(t *testing.T, name, issuer string, client *http.Client) (end func()) {
	t.Helper()
	var provider *oidc.Provider
	ctx, cancel := context.WithCancel(oidc.ClientContext(context.Background(), client))
	p.eventually("discovering "+issuer, func(context.Context) (err error) {
		provider, err = oidc.NewProvider(ctx, issuer)
		return err
	})
	v := &verifier{name: name, keys: map[string]bool{}}
	check := provider.Verifier(&oidc.Config{ClientID: issuer, SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256}})
	users := p.user("e2e")
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if minted, err := requestToken(ctx, users, ""); err == nil {
				kid, _ := token.KeyID(minted) // of a token that verifies, there is one
				_, err := check.Verify(ctx, minted)
				v.note(ctx, kid, err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		work.Wait()
		v.expect(t)
	}
}

// note counts a verdict. That the documents could not be fetched says nothing about the token.
func (v *verifier) note(ctx context.Context, kid string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		v.verified++
		v.keys[kid] = true
	case strings.Contains(err.Error(), "fetching keys"):
		v.unavailable++
	default:
		v.refused = append(v.refused, err.Error())
	}
}

func (v *verifier) expect(t *testing.T) {
	t.Helper()
	t.Logf("%s: %d tokens of %d keys verified, %d not for want of documents", v.name, v.verified, len(v.keys), v.unavailable)
	if len(v.refused) > 0 {
		t.Errorf("%s refused %d tokens: %s", v.name, len(v.refused), v.refused[0])
	}
	if len(v.keys) < 2 {
		t.Errorf("%s verified tokens of %d keys, want the old and a new one", v.name, len(v.keys))
	}
}

// clusterDocuments reaches the documents of a cluster at its load balancer, by client certificate.
func (p *place) clusterDocuments(t *testing.T) *http.Client {
	t.Helper()
	cfg := p.restConfig(p.userKubeconfig("e2e"))
	balancer := strings.TrimPrefix(cfg.Host, "https://")
	cfg.ServerName = "kubernetes" // regardless of what the issuer is called
	cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, balancer)
	}
	// An API server has the documents below its own root, regardless of the path of the issuer.
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return withoutPrefix{"/e2e", next} })
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// withoutPrefix takes the beginning of a path away.
type withoutPrefix struct {
	prefix string
	next   http.RoundTripper
}

func (w withoutPrefix) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Path = strings.TrimPrefix(r.URL.Path, w.prefix)
	return w.next.RoundTrip(r)
}

// serveDirectory serves a directory by TLS to a client that looks for every host there.
func serveDirectory(t *testing.T, dir string) *http.Client {
	t.Helper()
	server := httptest.NewTLSServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	client := server.Client()
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		t.Fatal(errors.New("the client of httptest has another transport"))
	}
	transport.TLSClientConfig.ServerName = "example.com" // the name in its certificate
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	return client
}
