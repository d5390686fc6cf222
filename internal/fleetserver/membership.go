package fleetserver

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/jwks"
)

// Bounds of a membership.
const (
	maxKeys   = 16
	maxKeySet = 64 << 10
	maxIssuer = 2000
	maxLabels = 64
	// maxOpaque is the limit of fields that are stored without being interpreted.
	maxOpaque = 16 << 10
)

// membership is the resource as in the API, with Google's field names.
type membership struct {
	Name             string            `json:"name,omitempty"`
	Endpoint         json.RawMessage   `json:"endpoint,omitempty"`
	Authority        *authority        `json:"authority,omitempty"`
	State            *membershipState  `json:"state,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
	CreateTime       *time.Time        `json:"createTime,omitempty"`
	UpdateTime       *time.Time        `json:"updateTime,omitempty"`
	DeleteTime       *time.Time        `json:"deleteTime,omitempty"`
	ExternalID       string            `json:"externalId,omitempty"`
	UniqueID         string            `json:"uniqueId,omitempty"`
	MonitoringConfig json.RawMessage   `json:"monitoringConfig,omitempty"`
}

type membershipState struct {
	Code string `json:"code"`
}

type authority struct {
	Issuer               string `json:"issuer,omitempty"`
	OIDCJWKS             []byte `json:"oidcJwks,omitempty"`
	WorkloadIdentityPool string `json:"workloadIdentityPool,omitempty"`
	IdentityProvider     string `json:"identityProvider,omitempty"`
}

// record is a membership with what the API does not show. Records are immutable; they are replaced.
type record struct {
	membership
	Revision int64 `json:"revision"`
	// Busy is the code of the state until ReadyAt, when the last operation ends.
	Busy    string    `json:"busy"`
	ReadyAt time.Time `json:"readyAt"`
}

const (
	creating = "CREATING"
	updating = "UPDATING"
	deleting = "DELETING"
	ready    = "READY"
)

// code returns the state at a time; empty when the membership is gone.
func (r record) code(now time.Time) string {
	switch {
	case now.Before(r.ReadyAt):
		return r.Busy
	case r.Busy == deleting:
		return ""
	}
	return ready
}

// shown returns the resource at a time.
func (r record) shown(now time.Time) membership {
	m := r.membership
	m.State = &membershipState{Code: r.code(now)}
	return m
}

// resourceName is the parsed name of a membership.
type resourceName struct{ project, location, id string }

func (p resourceName) parent() string { return "projects/" + p.project + "/locations/" + p.location }
func (p resourceName) name() string   { return p.parent() + "/memberships/" + p.id }

// pool returns the workload identity pool of a project.
func pool(project string) string { return project + ".svc.id.goog" }

// providerHost begins the name of a membership's identity provider.
const providerHost = "https://gkehub.googleapis.com/"

var (
	projectPattern  = regexp.MustCompile(`^[a-z0-9][-a-z0-9.:]{0,61}[a-z0-9]$`)
	locationPattern = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	labelPattern    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`) // RFC 1123
	externalPattern = regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9_.]*$`)
	labelKey        = regexp.MustCompile(`^[a-z][-_a-z0-9./]{0,62}$`)
	labelValue      = regexp.MustCompile(`^[-_a-zA-Z0-9.]{0,63}$`)
)

func (p resourceName) validParent() bool {
	return projectPattern.MatchString(p.project) && locationPattern.MatchString(p.location)
}

func (p resourceName) valid() bool { return p.validParent() && labelPattern.MatchString(p.id) }

// validate checks what a client may set.
func (m membership) validate() error {
	if m.ExternalID != "" && (len(m.ExternalID) > 63 || !externalPattern.MatchString(m.ExternalID)) {
		return invalid("externalId is longer than 63 characters or has characters other than letters, digits, '-', '_' and " +
			"'.'")
	}
	if len(m.Labels) > maxLabels {
		return invalid("there are more than %d labels", maxLabels)
	}
	for key, value := range m.Labels {
		if !labelKey.MatchString(key) || !labelValue.MatchString(value) {
			return invalid("label %q is not valid", key)
		}
	}
	if err := cmp.Or(checkOpaque("endpoint", m.Endpoint),
		checkOpaque("monitoringConfig", m.MonitoringConfig)); err != nil {
		return err
	}
	if m.Authority == nil {
		return nil
	}
	if err := checkIssuer(m.Authority.Issuer); err != nil {
		return err
	}
	_, err := parseKeys(m.Authority.OIDCJWKS)
	return err
}

// checkOpaque checks a field that is not interpreted.
func checkOpaque(name string, value json.RawMessage) error {
	if len(value) > maxOpaque || len(value) > 0 && value[0] != '{' {
		return invalid("%s is not an object of at most %d bytes", name, maxOpaque)
	}
	return nil
}

func checkIssuer(issuer string) error {
	if issuer == "" {
		return nil
	}
	u, err := url.Parse(issuer)
	if err != nil || !strings.HasPrefix(issuer, "https://") || u.Host == "" || len(issuer) >= maxIssuer {
		return invalid("authority.issuer is not an https URL shorter than %d characters", maxIssuer)
	}
	return nil
}

// parseKeys reads a key set strictly; an empty field is an empty set.
func parseKeys(document []byte) (jwks.Set, error) {
	if len(document) == 0 {
		return jwks.Set{}, nil
	}
	if len(document) > maxKeySet {
		return jwks.Set{}, invalid("authority.oidc_jwks is longer than %d bytes", maxKeySet)
	}
	keys, err := jwks.Parse(document)
	if err != nil {
		return jwks.Set{}, invalid("authority.oidc_jwks: %v", err)
	}
	if keys.Len() > maxKeys {
		return jwks.Set{}, invalid("authority.oidc_jwks has more than %d keys", maxKeys)
	}
	return keys, nil
}

// complete sets the fields of an authority that only the server sets.
func (a *authority) complete(p resourceName) *authority {
	if a == nil || a.Issuer == "" && len(a.OIDCJWKS) == 0 {
		return nil
	}
	full := authority{Issuer: a.Issuer, OIDCJWKS: a.OIDCJWKS}
	full.WorkloadIdentityPool, full.IdentityProvider = pool(p.project), providerHost+p.name()
	return &full
}

func (a *authority) issuer() string {
	if a == nil {
		return ""
	}
	return a.Issuer
}

func (a *authority) keySet() []byte {
	if a == nil {
		return nil
	}
	return a.OIDCJWKS
}

// fields are the fields that updateMask may name.
var fields = map[string]func(to *membership, from membership){
	"labels":           func(to *membership, from membership) { to.Labels = maps.Clone(from.Labels) },
	"externalId":       func(to *membership, from membership) { to.ExternalID = from.ExternalID },
	"endpoint":         func(to *membership, from membership) { to.Endpoint = from.Endpoint },
	"monitoringConfig": func(to *membership, from membership) { to.MonitoringConfig = from.MonitoringConfig },
	"authority":        func(to *membership, from membership) { to.Authority = from.Authority },
	"authority.issuer": func(to *membership, from membership) {
		to.Authority = &authority{Issuer: from.Authority.issuer(), OIDCJWKS: to.Authority.keySet()}
	},
	"authority.oidcJwks": func(to *membership, from membership) {
		to.Authority = &authority{Issuer: to.Authority.issuer(), OIDCJWKS: from.Authority.keySet()}
	},
}

// outputOnly are the fields that a mask may name without effect (AIP-203).
var outputOnly = []string{
	"name", "description", "state", "state.code", "createTime", "updateTime", "deleteTime", "lastConnectionTime",
	"uniqueId",
	"authority.identityProvider", "authority.workloadIdentityPool",
}

// patched returns the membership with the masked fields of another. The mask is a google.protobuf.FieldMask in JSON.
func (m membership) patched(mask string, from membership) (membership, error) {
	names := strings.Split(mask, ",")
	if mask == "*" {
		names = []string{"labels", "externalId", "endpoint", "monitoringConfig", "authority"}
	}
	for _, name := range names {
		name = lowerCamel(strings.TrimSpace(name))
		set, known := fields[name]
		switch {
		case known:
			set(&m, from)
		case !slices.Contains(outputOnly, name):
			return m, invalid("updateMask is empty or names a field that does not exist or cannot be updated: %q", name)
		}
	}
	return m, nil
}

var snake = regexp.MustCompile(`_[a-z]`)

// lowerCamel also accepts names of protocol buffers, such as authority.oidc_jwks.
func lowerCamel(name string) string {
	return snake.ReplaceAllStringFunc(name, func(s string) string { return strings.ToUpper(s[1:]) })
}
