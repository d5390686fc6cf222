package gkehub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	hub "google.golang.org/api/gkehub/v1"
	"google.golang.org/api/option"

	"github.com/keyturn/keyturn/internal/fleet"
)

// The endpoints of Google Cloud.
const (
	DefaultEndpoint    = "https://gkehub.googleapis.com"
	DefaultSTSEndpoint = "https://sts.googleapis.com"
)

// DefaultTimeout is the default of Options.Timeout.
const DefaultTimeout = 10 * time.Second

// Options name the membership and how to reach it.
type Options struct {
	// ProjectID, Location and Membership name it: projects/P/locations/L/memberships/M.
	ProjectID, Location, Membership string
	// ExternalID marks the membership as the cluster's: the UID of its UserCluster.
	ExternalID string
	// Issuer is the issuer of the cluster's tokens, an https URL.
	Issuer string
	// Endpoint and STSEndpoint are https URLs of the GKE Hub API and of the STS; if empty, those of Google Cloud.
	Endpoint, STSEndpoint string
	// CABundle holds the PEM certificates that verify the endpoints and the token_uri of the credentials; if empty, the
	// system roots are used.
	CABundle []byte
	// CredentialsJSON is the key file of a service account, and no other kind of credentials; if empty, the application
	// default credentials are used.
	CredentialsJSON []byte
	// Propagation is how long after a change some part of the STS may not know it yet.
	Propagation time.Duration
	// Timeout limits one call of a Publisher's method, with all its attempts; zero: DefaultTimeout.
	Timeout time.Duration
	// Now is the clock for canary tokens; nil: time.Now.
	Now func() time.Time
	// Log receives writes; nil: no log.
	Log *slog.Logger
}

// Membership is the membership of one cluster. Between calls it keeps only connections and an access token.
type Membership struct {
	o      Options
	name   string
	tokens *accountTokens
	sts    *http.Client

	memberships *hub.ProjectsLocationsMembershipsService
	operations  *hub.ProjectsLocationsOperationsService
}

var _ fleet.Publisher = (*Membership)(nil)

// New checks the options and reads the credentials. It makes no request.
func New(ctx context.Context, o Options) (*Membership, error) {
	m := &Membership{o: o, name: o.parent() + "/memberships/" + o.Membership}
	if err := o.complete(); err != nil {
		return nil, m.failed("preparing", err)
	}
	transport, err := newTransport(o.CABundle)
	if err != nil {
		return nil, m.failed("preparing", err)
	}
	if m.tokens, err = newAccountTokens(ctx, o.CredentialsJSON, newClient(transport)); err != nil {
		return nil, m.failed("preparing", err)
	}
	service, err := hub.NewService(ctx,
		option.WithHTTPClient(newClient(m.tokens.authorize(transport))),
		option.WithEndpoint(o.Endpoint+"/"),
		option.WithLogger(slog.New(slog.DiscardHandler))) // by default, the client would log whole messages
	if err != nil {
		return nil, m.failed("preparing", err)
	}
	service.UserAgent = "keyturn"
	o.CredentialsJSON = nil // no longer needed
	m.o, m.sts = o, newClient(transport)
	m.memberships, m.operations = service.Projects.Locations.Memberships, service.Projects.Locations.Operations
	return m, nil
}

// Name implements fleet.Publisher.
func (m *Membership) Name() string { return m.o.Name() }

// Format writes the name for every verb, so that none shows the access token.
func (m Membership) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.Name()) }

// Name returns the resource name of the membership with these options.
func (o *Options) Name() string {
	return "fleet membership " + o.parent() + "/memberships/" + o.Membership
}

// Format names the membership for every verb, so that none shows the credentials.
func (o Options) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "options of "+o.Name())
}

// failed names the membership in an error; nil stays nil.
func (m *Membership) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", doing, m.Name(), err)
}

func (o *Options) parent() string { return "projects/" + o.ProjectID + "/locations/" + o.Location }

// The names become parts of URLs.
var (
	projectPattern    = regexp.MustCompile(`^[a-z][-a-z0-9.:]{4,61}[a-z0-9]$`)
	locationPattern   = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`)
	membershipPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// complete fills in defaults and reports all problems.
func (o *Options) complete() error {
	var problems []error
	for _, part := range []struct {
		what, value string
		pattern     *regexp.Regexp
	}{
		{"project ID", o.ProjectID, projectPattern},
		{"location", o.Location, locationPattern},
		{"name", o.Membership, membershipPattern},
	} {
		if !part.pattern.MatchString(part.value) {
			problems = append(problems, fmt.Errorf("%s %q is invalid", part.what, part.value))
		}
	}
	if o.ExternalID == "" {
		problems = append(problems, errors.New("the external ID is missing"))
	}
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	if o.STSEndpoint == "" {
		o.STSEndpoint = DefaultSTSEndpoint
	}
	for _, u := range []struct{ what, value string }{
		{"issuer", o.Issuer}, {"endpoint", o.Endpoint}, {"STS endpoint", o.STSEndpoint},
	} {
		if !isHTTPS(u.value) {
			problems = append(problems, fmt.Errorf("%s %q is not an https URL", u.what, u.value))
		}
	}
	o.Endpoint, o.STSEndpoint = strings.TrimRight(o.Endpoint, "/"), strings.TrimRight(o.STSEndpoint, "/")
	if o.Timeout < 0 {
		problems = append(problems, fmt.Errorf("the timeout %s is below 0", o.Timeout))
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(problems...)
}

// isHTTPS requires plain https URLs, since tokens are sent there.
func isHTTPS(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}
