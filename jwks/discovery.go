package jwks

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// DiscoveryPath is where kube-apiserver serves its discovery document, below the issuer's URL.
const DiscoveryPath = "/.well-known/openid-configuration"

// Discovery is the OpenID Connect discovery document of a service account issuer: the part of the provider metadata
// (OpenID Connect Discovery 1.0, section 3) that kube-apiserver serves, in kube-apiserver's order.
type Discovery struct {
	// Issuer is the https URL in the iss claim of the issuer's tokens.
	Issuer string `json:"issuer"`
	// JWKSURI is the https URL of the issuer's key set.
	JWKSURI string `json:"jwks_uri"`
	// ResponseTypes is always "id_token".
	ResponseTypes []string `json:"response_types_supported"`
	// SubjectTypes is always "public".
	SubjectTypes []string `json:"subject_types_supported"`
	// Algorithms are the algorithms of the keys, sorted and without duplicates.
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
}

// NewDiscovery returns the document of an issuer with these keys. Both URLs must be https. The issuer's must have
// neither a query nor a fragment.
func NewDiscovery(issuer, jwksURI string, keys Set) (Discovery, error) {
	if err := checkIssuer(issuer); err != nil {
		return Discovery{}, err
	}
	if _, err := parseHTTPS("jwks_uri", jwksURI); err != nil {
		return Discovery{}, err
	}
	algorithms := make([]string, 0, keys.Len())
	for _, k := range keys.keys {
		algorithms = append(algorithms, k.Algorithm)
	}
	slices.Sort(algorithms)
	return Discovery{
		Issuer:        issuer,
		JWKSURI:       jwksURI,
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		Algorithms:    slices.Compact(algorithms),
	}, nil
}

// Marshal returns the document as JSON, byte for byte as kube-apiserver serves it.
func (d Discovery) Marshal() ([]byte, error) { return json.Marshal(d) }

// ParseDiscovery reads a discovery document. It must have every member that Discovery has; others are ignored. The
// caller must compare Issuer with the issuer that it expects.
func ParseDiscovery(data []byte) (Discovery, error) {
	if len(data) > MaxSize {
		return Discovery{}, fmt.Errorf("reading discovery document: %w: longer than %d bytes", Malformed, MaxSize)
	}
	m, err := strictjson.Members(data)
	if err != nil {
		return Discovery{}, fmt.Errorf("reading discovery document: %w: %w", Malformed, err)
	}
	r := &reader{members: m}
	d := Discovery{
		Issuer:        r.text("issuer"),
		JWKSURI:       r.text("jwks_uri"),
		ResponseTypes: r.texts("response_types_supported"),
		SubjectTypes:  r.texts("subject_types_supported"),
		Algorithms:    r.texts("id_token_signing_alg_values_supported"),
	}
	if r.err == nil {
		r.err = checkIssuer(d.Issuer)
	}
	if r.err == nil {
		_, r.err = parseHTTPS("jwks_uri", d.JWKSURI)
	}
	if r.err != nil {
		return Discovery{}, fmt.Errorf("reading discovery document: %w", r.err)
	}
	return d, nil
}

func (r *reader) texts(name string) []string {
	var raw []json.RawMessage
	if err := json.Unmarshal(r.members[name], &raw); err != nil || raw == nil {
		r.fail("member %s is missing or not an array", name)
		return nil
	}
	all := make([]string, 0, len(raw))
	for _, value := range raw {
		s, ok := strictjson.Text(value)
		if !ok {
			r.fail("member %s holds something other than strings", name)
		}
		all = append(all, s)
	}
	return all
}

func checkIssuer(issuer string) error {
	u, err := parseHTTPS("issuer", issuer)
	if err != nil {
		return err
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return fmt.Errorf("%w: issuer has a query or a fragment", Malformed)
	}
	return nil
}

func parseHTTPS(what, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%w: %s is not an https URL", Malformed, what)
	}
	return u, nil
}
