package fleetserver

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// Registrar is the public half of a service account that may register clusters.
type Registrar struct {
	ClientEmail  string `json:"client_email"`
	PrivateKeyID string `json:"private_key_id"`
	// PublicKey is an RSA key in PKIX form, PEM encoded.
	PublicKey string `json:"public_key"`
}

// NewServiceAccountKey makes a key of a service account: the JSON file for Google's client libraries, with the private
// key, and the public half for the server. The email is like NAME@PROJECT.iam.gserviceaccount.com.
func NewServiceAccountKey(tokenURI, email string) (keyJSON []byte, registrar Registrar, err error) {
	if u, err := url.Parse(tokenURI); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, Registrar{}, errors.New("making service account key: the token URI is not an https URL")
	}
	name, domain, _ := strings.Cut(email, "@")
	if name == "" || domain == "" {
		return nil, Registrar{}, fmt.Errorf("making service account key: %q is not an email address", email)
	}
	private, err := rsa.GenerateKey(rand.Reader, jwks.MinRSABits)
	if err != nil {
		return nil, Registrar{}, fmt.Errorf("making service account key: %w", err)
	}
	privatePEM, err := token.MarshalPrivateKey(private)
	if err != nil {
		return nil, Registrar{}, fmt.Errorf("making service account key: %w", err)
	}
	publicPEM, err := jwks.MarshalPublicKey(private.Public())
	if err != nil {
		return nil, Registrar{}, fmt.Errorf("making service account key: %w", err)
	}
	var id [20]byte
	_, _ = rand.Read(id[:]) // never fails
	registrar = Registrar{ClientEmail: email, PrivateKeyID: hex.EncodeToString(id[:]), PublicKey: string(publicPEM)}
	project, _, _ := strings.Cut(domain, ".")
	keyJSON, err = json.MarshalIndent(serviceAccountKey{
		Type: "service_account", ProjectID: project, PrivateKeyID: registrar.PrivateKeyID, PrivateKey: string(privatePEM),
		ClientEmail: email, TokenURI: tokenURI, UniverseDomain: "googleapis.com",
	}, "", "  ")
	if err != nil {
		return nil, Registrar{}, fmt.Errorf("making service account key: %w", err)
	}
	return append(keyJSON, '\n'), registrar, nil
}

// serviceAccountKey is the key file of a service account.
type serviceAccountKey struct {
	Type           string `json:"type"`
	ProjectID      string `json:"project_id"`
	PrivateKeyID   string `json:"private_key_id"`
	PrivateKey     string `json:"private_key"`
	ClientEmail    string `json:"client_email"`
	TokenURI       string `json:"token_uri"`
	UniverseDomain string `json:"universe_domain"`
}

// registrarsFile is the format of the file of registrars.
type registrarsFile struct {
	Registrars []Registrar `json:"registrars"`
}

// MarshalRegistrars returns the file that LoadRegistrars reads. It holds public keys only.
func MarshalRegistrars(all []Registrar) ([]byte, error) {
	if _, err := verifiers(all); err != nil {
		return nil, err
	}
	content, err := json.MarshalIndent(registrarsFile{Registrars: all}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding registrars: %w", err)
	}
	return append(content, '\n'), nil
}

// LoadRegistrars reads a file of registrars.
func LoadRegistrars(path string) ([]Registrar, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading registrars: %w", err)
	}
	var file registrarsFile
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("reading registrars from %s: %w", path, err)
	}
	if d.More() {
		return nil, fmt.Errorf("reading registrars from %s: something follows the object", path)
	}
	if _, err := verifiers(file.Registrars); err != nil {
		return nil, fmt.Errorf("reading registrars from %s: %w", path, err)
	}
	return file.Registrars, nil
}

// verifier are the keys of one account, by ID.
type verifier map[string]*rsa.PublicKey

// verifiers returns the keys of all accounts, by email. An account may have several keys.
func verifiers(all []Registrar) (map[string]verifier, error) {
	byEmail := map[string]verifier{}
	for i, r := range all {
		if r.ClientEmail == "" || r.PrivateKeyID == "" {
			return nil, fmt.Errorf("registrar %d: client_email or private_key_id is missing", i)
		}
		public, err := jwks.ParsePublicKey([]byte(r.PublicKey))
		if err != nil {
			return nil, fmt.Errorf("registrar %s: %w", r.ClientEmail, err)
		}
		key, isRSA := public.(*rsa.PublicKey)
		if !isRSA {
			return nil, fmt.Errorf("registrar %s: its key is not RSA", r.ClientEmail)
		}
		if byEmail[r.ClientEmail] == nil {
			byEmail[r.ClientEmail] = verifier{}
		}
		byEmail[r.ClientEmail][r.PrivateKeyID] = key
	}
	return byEmail, nil
}

const (
	grantAssertion = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	// maxAssertionLife is the longest time between iat and exp of an assertion.
	maxAssertionLife = time.Hour
)

// accountToken exchanges an assertion that a service account signed for an access token of the account.
func (s *Server) accountToken(values url.Values) (any, error) {
	if values.Get("grant_type") != grantAssertion {
		return nil, oauthInvalid("unsupported_grant_type", "the grant type must be "+grantAssertion)
	}
	now := s.now()
	email, scope, err := s.verifyAssertion(values.Get("assertion"), now)
	if err != nil {
		return nil, err
	}
	if err := checkScope(scope); err != nil {
		return nil, err
	}
	return s.issue(grant{principal: email, scope: scope, expires: now.Add(maxTokenLife), account: true},
		values.Get("assertion"), now)
}

// verifyAssertion returns the account that signed, and the requested scope.
func (s *Server) verifyAssertion(assertion string, now time.Time) (email, scope string, err error) {
	if len(assertion) > maxSubjectToken {
		return "", "", invalidGrant("the assertion is too long")
	}
	parsed, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(parsed.Headers) != 1 || !canonical(assertion) {
		return "", "", invalidGrant("the assertion is not a JWT signed by RS256")
	}
	if err := checkHeader(assertion); err != nil {
		return "", "", err
	}
	var claimed jwt.Claims // only to find the key
	if err := parsed.UnsafeClaimsWithoutVerification(&claimed); err != nil {
		return "", "", invalidGrant("the claims of the assertion are not good")
	}
	key, found := s.registrars[claimed.Issuer][parsed.Headers[0].KeyID]
	if !found {
		return "", "", invalidGrant("no such account, or it has no such key")
	}
	var c jwt.Claims
	var more struct {
		Scope string `json:"scope"`
	}
	if err := parsed.Claims(key, &c, &more); err != nil {
		return "", "", invalidGrant("the signature of the assertion is not good")
	}
	return c.Issuer, more.Scope, s.checkAssertion(c, now)
}

func (s *Server) checkAssertion(c jwt.Claims, now time.Time) error {
	switch {
	case len(c.Audience) != 1 || c.Audience[0] != s.tokenURI:
		return invalidGrant("the audience of the assertion is not the token URI")
	case c.Subject != "" && c.Subject != c.Issuer:
		return oauthInvalid("unauthorized_client", "the account may not act for others")
	case c.IssuedAt == nil:
		return invalidGrant("the assertion does not say when it was issued")
	}
	if err := checkTimes(c, now); err != nil {
		return err
	}
	if c.Expiry.Time().Sub(c.IssuedAt.Time()) > maxAssertionLife {
		return invalidGrant("the assertion lives longer than an hour")
	}
	return nil
}
