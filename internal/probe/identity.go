package probe

import (
	"github.com/keyturn/keyturn/internal/hint"

	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// scope is the scope of access tokens, the default of Google's libraries.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// The flags of workloadIdentityOptions.
const (
	flagCredentialsFile  = "workload-identity-credentials-file"
	flagIdentityCAFile   = "workload-identity-ca-file"
	flagIdentityResource = "workload-identity-resource"
)

// workloadIdentityOptions are how the pod uses its workload identity. All of them are required, or none. The files are
// read once.
type workloadIdentityOptions struct {
	// CredentialsFile is a credentials file of Google's libraries, of the type external_account, that names a token file.
	CredentialsFile string
	// CAFile holds the certificates that verify the STS and the resource.
	CAFile string
	// Resource is the https URL that access tokens are used at. It answers 200 to a valid one and 401 to an invalid
	// one.
	Resource string
}

func (o workloadIdentityOptions) validate() error {
	if o == (workloadIdentityOptions{}) {
		return nil
	}
	var missing []string
	for _, flag := range [][2]string{
		{flagCredentialsFile, o.CredentialsFile}, {flagIdentityCAFile, o.CAFile}, {flagIdentityResource, o.Resource},
	} {
		if flag[1] == "" {
			missing = append(missing, "--"+flag[0])
		}
	}
	if len(missing) > 0 {
		return hint.Errorf(fmt.Sprintf("give all of --%s, --%s and --%s, or none",
			flagCredentialsFile, flagIdentityCAFile, flagIdentityResource),
			"workload identity lacks %s", strings.Join(missing, " and "))
	}
	if _, ok := httpsURL(o.Resource); !ok {
		return fmt.Errorf("resource %q of the workload identity is not an https URL", o.Resource)
	}
	return nil
}

// identity uses a workload identity as any program does: through Google's own library, with a credentials file.
type identity struct {
	// credentials is the content of the file, and tokenURL and tokenFile are from it.
	credentials []byte
	tokenURL    *url.URL
	tokenFile   string
	resource    string
	transport   http.RoundTripper
	timeout     time.Duration
}

func newIdentity(o workloadIdentityOptions, timeout time.Duration) (*identity, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	roots, err := readRoots(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of the security token service: %w", err)
	}
	content, err := os.ReadFile(o.CredentialsFile)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials of the workload identity: %w", err)
	}
	c, err := parseCredentials(content)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials of the workload identity in %s: %w", o.CredentialsFile, err)
	}
	tokenURL, ok := httpsURL(c.TokenURL)
	if !ok {
		return nil, fmt.Errorf("reading the credentials of the workload identity in %s: token_url %q is not an https URL",
			o.CredentialsFile, c.TokenURL)
	}
	return &identity{
		credentials: content, tokenURL: tokenURL, tokenFile: c.Source.File,
		resource: o.Resource, transport: transport(roots), timeout: timeout,
	}, nil
}

// server returns the STS as reports name it.
func (i *identity) server() string { return i.tokenURL.Scheme + "://" + i.tokenURL.Host }

// use exchanges the token in the file for an access token, and uses that. bearer is the recent content of the file.
func (i *identity) use(ctx context.Context, bearer string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, i.timeout)
	defer cancel()
	x := &exchange{next: i.transport, tokenURL: i.tokenURL.String(), subject: bearer}
	client := &http.Client{Transport: x, CheckRedirect: stay}
	access, err := i.accessToken(context.WithValue(ctx, oauth2.HTTPClient, client))
	a := answer{kind: WorkloadIdentity, bearer: x.subject}
	switch {
	case x.refused():
		a.reason = x.failure.String()
		return a, nil
	case err != nil:
		return answer{}, x.explain(err)
	}
	a.accepted, err = i.show(ctx, client, access)
	if err == nil && !a.accepted {
		a.reason = "401 Unauthorized, for its access token"
	}
	return a, err
}

// accessToken makes Google's library get an access token. New credentials are made each time, since they cache their
// first access token.
func (i *identity) accessToken(ctx context.Context) (string, error) {
	credentials, err := google.CredentialsFromJSONWithType(ctx, i.credentials, google.ExternalAccount, scope)
	if err != nil {
		return "", err
	}
	access, err := credentials.TokenSource.Token()
	if err != nil {
		return "", err
	}
	return access.AccessToken, nil
}

// show uses an access token at the resource. An error says nothing about the token.
func (i *identity) show(ctx context.Context, client *http.Client, access string) (accepted bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.resource, nil)
	if err != nil {
		return false, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection can be used again
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusUnauthorized:
		return false, nil
	default:
		return false, fmt.Errorf("%s answered %s", i.resource, resp.Status)
	}
}

// exchange is one exchange at the STS, observed below Google's library. The library reports an answer of the STS only
// in the text of an error, with the whole answer.
type exchange struct {
	next     http.RoundTripper
	tokenURL string
	// subject is the token that was sent.
	subject string
	// status is the status of the answer, and failure its content unless it is a success; zero without an answer.
	status  int
	failure oauthFailure
}

// oauthFailure is the answer of an STS that grants no token (RFC 6749, section 5.2).
type oauthFailure struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// String returns what the STS said, without anything that could be a token, since it may quote its input.
func (f oauthFailure) String() string {
	return quiet(strings.TrimSuffix(f.Code+": "+f.Description, ": "))
}

// RoundTrip implements http.RoundTripper. It changes nothing.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() != x.tokenURL {
		return x.next.RoundTrip(r)
	}
	if sent := subjectToken(r); sent != "" {
		x.subject = sent
	}
	resp, err := x.next.RoundTrip(r)
	if err != nil || resp.StatusCode < http.StatusMultipleChoices {
		return resp, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", x.tokenURL, err)
	}
	x.status = resp.StatusCode
	_ = json.Unmarshal(body, &x.failure) // an answer in another form says nothing about the token
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// subjectToken returns the token in an exchange request.
func subjectToken(r *http.Request) string {
	if r.GetBody == nil {
		return ""
	}
	body, err := r.GetBody()
	if err != nil {
		return ""
	}
	defer body.Close()
	form, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return ""
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return ""
	}
	return values.Get("subject_token")
}

// refused reports whether the STS answered that the token is invalid.
func (x *exchange) refused() bool {
	return x.status == http.StatusBadRequest && slices.Contains([]string{"invalid_grant", "invalid_request"},
		x.failure.Code)
}

// explain returns why there was no answer about the token. It uses the library's error only if that does not quote one.
func (x *exchange) explain(err error) error {
	if x.status == 0 {
		return errors.New(quiet(err.Error()))
	}
	text := fmt.Sprintf("%s answered %d %s", x.tokenURL, x.status, http.StatusText(x.status))
	if x.failure.Code != "" {
		text += ", " + x.failure.String()
	}
	return errors.New(text)
}

// maxReason is the longest reason, in bytes.
const maxReason = 300

// opaque matches what may be a token or a part of one. Each part of a signed token is longer than a kid, which has 43
// characters.
var opaque = regexp.MustCompile(`[-A-Za-z0-9_.]{44,}`)

// quiet shortens foreign text, and removes what could be a token.
func quiet(text string) string {
	text = opaque.ReplaceAllString(text, "...")
	return strings.ToValidUTF8(text[:min(maxReason, len(text))], "")
}
