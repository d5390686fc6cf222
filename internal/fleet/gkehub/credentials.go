package gkehub

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	hub "google.golang.org/api/gkehub/v1"

	"github.com/keyturn/keyturn/token"
)

// requestTimeout limits one request.
const requestTimeout = 4 * time.Second

// checkKeyFile is the hint for invalid credentials.
const checkKeyFile = "check gkeConnect.registerServiceAccountKeyPath"

func newTransport(caBundle []byte) (http.RoundTripper, error) {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the default HTTP transport of the program was replaced")
	}
	transport := base.Clone()
	transport.MaxResponseHeaderBytes = maxAnswer
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(caBundle) > 0 {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(caBundle) {
			return nil, errors.New("the CA bundle holds no PEM certificate; check gkeConnect.caBundle")
		}
	}
	return bounded{transport}, nil
}

// maxBody is the longest answer to any request, in bytes: a membership may have a JWKS of jwks.MaxSize, in base64.
const maxBody = 2 << 20

// bounded is a transport that keeps a server from filling the memory.
type bounded struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.base.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxBody)
	}
	return resp, err
}

// newClient follows no redirect, which would take the token of the request to another server.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// accountTokens gets access tokens for a service account. It keeps one while it is valid, or until forget is called.
type accountTokens struct {
	find func() (oauth2.TokenSource, error)

	mu     sync.Mutex
	source oauth2.TokenSource
	last   string // the access token that was used last
}

// newAccountTokens reads a key file, or finds the application default credentials if there is none. Tokens are fetched
// with client; they outlive ctx.
func newAccountTokens(ctx context.Context, keyFile []byte, client *http.Client) (*accountTokens, error) {
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, client)
	t := &accountTokens{find: func() (oauth2.TokenSource, error) { return applicationDefault(ctx) }}
	if len(keyFile) > 0 {
		if err := checkServiceAccount(keyFile); err != nil {
			return nil, err
		}
		config, err := google.JWTConfigFromJSON(keyFile, hub.CloudPlatformScope)
		if err != nil {
			return nil, errors.New("the credentials cannot be read; " + checkKeyFile)
		}
		t.find = func() (oauth2.TokenSource, error) { return config.TokenSource(ctx), nil }
	}
	var err error
	t.source, err = t.find()
	return t, err
}

// checkServiceAccount refuses everything but the key file of a service account: other kinds of credentials may name
// programs to run, files to read and URLs to send them to. Its errors quote nothing.
func checkServiceAccount(keyFile []byte) error {
	var file struct {
		Type        string `json:"type"`
		ClientEmail string `json:"client_email"`
		PrivateKey  string `json:"private_key"`
		TokenURI    string `json:"token_uri"`
	}
	if err := json.Unmarshal(keyFile, &file); err != nil {
		return errors.New("the credentials are not a JSON object; " + checkKeyFile)
	}
	if file.Type != "service_account" {
		return errors.New("the credentials are not the key of a service account; " + checkKeyFile)
	}
	key, err := token.ParsePrivateKey([]byte(file.PrivateKey))
	if _, isRSA := key.(*rsa.PrivateKey); err != nil || !isRSA {
		return errors.New("the private_key of the credentials is not an RSA key in PEM; " + checkKeyFile)
	}
	if file.ClientEmail == "" || file.TokenURI != "" && !isHTTPS(file.TokenURI) {
		return errors.New("the credentials have no client_email, or a token_uri that is not an https URL; " + checkKeyFile)
	}
	return nil
}

func applicationDefault(ctx context.Context) (oauth2.TokenSource, error) {
	found, err := google.FindDefaultCredentials(ctx, hub.CloudPlatformScope)
	if err != nil {
		return nil, fmt.Errorf("finding application default credentials: %w; or set gkeConnect.registerServiceAccountKeyPath",
			err)
	}
	return found.TokenSource, nil
}

// authorize adds the access token to every request.
func (t *accountTokens) authorize(base http.RoundTripper) http.RoundTripper {
	return &oauth2.Transport{Source: t, Base: base}
}

// Token implements oauth2.TokenSource.
func (t *accountTokens) Token() (*oauth2.Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.source == nil {
		var err error
		if t.source, err = t.find(); err != nil {
			return nil, err
		}
	}
	got, err := t.source.Token()
	if err == nil {
		t.last = got.AccessToken
	}
	return got, err
}

// forget makes the next request get a new token. A server that no longer knows the old one would refuse it for as long
// as it is valid.
func (t *accountTokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.source = nil
}

// isIn reports whether a text contains the access token.
func (t *accountTokens) isIn(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last != "" && strings.Contains(text, t.last)
}
