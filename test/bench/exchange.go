package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

const (
	project         = "my-project"
	exchangeClients = 16
	exchangeTime    = 5 * time.Second
)

// Exchanges is what the STS of the local fleet can do, next to the raw check of the same token's signature.
type Exchanges struct {
	// PerSecond and P99 are of 16 clients with a connection each, by TLS.
	PerSecond float64 `json:"perSecond"`
	P99       float64 `json:"p99Milliseconds"`
	// Checks is how often a second one core checks the signature alone.
	Checks float64 `json:"checksPerSecond"`
}

func (p *place) fleetEndpoint() string {
	return "https://" + strings.TrimSuffix(p.network, "0.0/16") + "0.5:8443"
}

// gkeConnect is the part of a config file that registers a cluster with the local fleet.
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

// measureExchanges trades one token of a cluster, again and again.
func (p *place) measureExchanges(ctx context.Context, cluster string) (Exchanges, error) {
	p.say("trading tokens at the STS of the local fleet")
	subject, err := p.poolToken(ctx, cluster)
	if err != nil {
		return Exchanges{}, err
	}
	client, err := p.fleetClient()
	if err != nil {
		return Exchanges{}, err
	}
	body := url.Values{
		"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"audience":             {"identitynamespace:" + project + ".svc.id.goog:https://gkehub.googleapis.com/projects/" + project + "/locations/global/memberships/" + cluster},
		"scope":                {"https://www.googleapis.com/auth/cloud-platform"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token":        {subject},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
	}.Encode()
	e := Exchanges{}
	e.PerSecond, e.P99, err = busy(ctx, exchangeClients, exchangeTime, func(ctx context.Context, _ int) error {
		return exchange(ctx, client, p.fleetEndpoint()+"/v1/token", body)
	})
	if err != nil {
		return Exchanges{}, err
	}
	e.Checks, err = p.checks(ctx, cluster, subject)
	return e, err
}

// poolToken mints a token that the fleet takes.
func (p *place) poolToken(ctx context.Context, cluster string) (string, error) {
	users, err := p.user(cluster)
	if err != nil {
		return "", err
	}
	spec := authenticationv1.TokenRequestSpec{Audiences: []string{project + ".svc.id.goog"}}
	var minted string
	// A new cluster gets its ServiceAccounts a moment after it is ready.
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		answer, err := users.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err == nil {
			minted = answer.Status.Token
		}
		return err == nil, client.IgnoreNotFound(err)
	})
	if err != nil {
		return "", fmt.Errorf("requesting a token for the fleet: %w", err)
	}
	return minted, nil
}

func (p *place) fleetClient() (*http.Client, error) {
	ca, err := os.ReadFile(filepath.Join(p.dir, "fleet-ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the fleet: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: exchangeClients,
	}}, nil
}

func exchange(ctx context.Context, client *http.Client, at, body string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("trading a token: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("trading a token: %w", err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return fmt.Errorf("trading a token: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("trading a token: %s", answer.Status)
	}
	return nil
}

// checks counts how often one core checks the signature and the claims of the token, without a server around it.
func (p *place) checks(ctx context.Context, cluster, subject string) (float64, error) {
	key, err := p.key(ctx, cluster)
	if err != nil {
		return 0, err
	}
	public, err := jwks.NewKey(key.Signer.Public())
	if err != nil {
		return 0, err
	}
	keys, err := jwks.NewSet(public)
	if err != nil {
		return 0, err
	}
	expect := token.Expect{Issuer: v1alpha1.DefaultIssuer, Audience: project + ".svc.id.goog", Now: time.Now(), Leeway: time.Minute}
	began, done := time.Now(), 0
	for time.Since(began) < exchangeTime/5 {
		if _, err := token.Verify(subject, keys, expect); err != nil {
			return 0, err
		}
		done++
	}
	return float64(done) / time.Since(began).Seconds(), nil
}
