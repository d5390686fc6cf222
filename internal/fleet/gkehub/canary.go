package gkehub

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	hub "google.golang.org/api/gkehub/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/token"
)

// A canary is valid from a while before it was signed, since the clock of the STS may be behind ours, and for ten
// minutes in total.
const (
	canarySkew = 30 * time.Second
	canaryLife = 10 * time.Minute
)

// verdict is the answer of the STS to a canary.
type verdict int

const (
	// accepted: it returned an access token.
	accepted verdict = iota + 1
	// refusal: it refused the token.
	refusal
	// noProvider: it does not know the membership, or not yet.
	noProvider
)

// trade signs a canary with a key and exchanges it at the STS for an access token, which is discarded.
func (m *Membership) trade(ctx context.Context, is contents, k keystore.KeyPair, now time.Time) (verdict, error) {
	pool := cmp.Or(is.pool, m.o.ProjectID+".svc.id.goog")
	provider := cmp.Or(is.provider, "https://gkehub.googleapis.com/"+m.name)
	claims := token.NewBoundClaims(m.o.Issuer, []string{pool}, token.Kubernetes{
		Namespace: metav1.NamespaceSystem, ServiceAccount: token.Ref{Name: v1alpha1.CanaryAccount},
	}, now.Add(-canarySkew), canaryLife)
	claims.ID = rand.Text()
	canary, err := token.Sign(rand.Reader, k.Signer, k.Algorithm, k.KeyID, claims)
	if err != nil {
		return 0, err
	}
	form := url.Values{ // RFC 8693, section 2.1
		"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"audience":             {"identitynamespace:" + pool + ":" + provider},
		"scope":                {hub.CloudPlatformScope},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
		"subject_token":        {canary},
	}
	var said verdict
	err = m.retry(ctx, func() error {
		said, err = m.exchange(ctx, form)
		return err
	})
	return said, err
}

// maxAnswer is the most bytes that are read of an answer of the STS.
const maxAnswer = 64 << 10

func (m *Membership) exchange(ctx context.Context, form url.Values) (verdict, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.o.STSEndpoint+"/v1/token",
		strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := m.sts.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, &url.Error{Op: "reading the answer of", URL: req.URL.String(), Err: err}
	}
	return understand(resp.StatusCode, resp.Header, body)
}

// understand distinguishes a refusal of the token from everything else. Only an answer in the form of RFC 6749, section
// 5.2, is a refusal: any other may be from a server that has not checked the token.
func understand(code int, header http.Header, body []byte) (verdict, error) {
	var answer struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	err := json.Unmarshal(body, &answer)
	switch {
	case code == http.StatusOK && err == nil && answer.AccessToken != "":
		return accepted, nil
	case code == http.StatusOK:
		return 0, &failure{why: "the STS answered 200 OK without an access token"}
	case code != http.StatusBadRequest || err != nil:
		return 0, stsFailure(code, header)
	}
	switch answer.Error {
	case "invalid_grant", "invalid_request": // RFC 8693, section 2.2.2; Google says the former
		return refusal, nil
	case "invalid_target":
		return noProvider, nil
	}
	f := stsFailure(code, header)
	if errorCode.MatchString(answer.Error) {
		f.why += " (" + answer.Error + ")"
	}
	return 0, f
}

// errorCode matches error codes of OAuth 2.0, but no token.
var errorCode = regexp.MustCompile(`^[a-z_]{1,40}$`)

func stsFailure(code int, header http.Header) *failure {
	f := answered("the STS", code, header)
	if code == http.StatusForbidden {
		f.cure = "enable sts.googleapis.com in the project"
	}
	return f
}
