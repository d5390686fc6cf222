package fleetserver

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyturn/keyturn/internal/strictjson"
	"github.com/keyturn/keyturn/jwks"
)

// The names of RFC 8693.
const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
)

const (
	// maxSubjectToken is the longest subject token in bytes, as in package token.
	maxSubjectToken = 16 << 10
	// leeway is how far the clock of an issuer may be ahead. It does not apply to the expiry.
	leeway = 30 * time.Second
	// lastDate is the last second of the year 9999.
	lastDate = 253402300799
)

// algorithms are the algorithms of all keys.
var algorithms = []jose.SignatureAlgorithm{jwks.RS256, jwks.ES256, jwks.ES384}

// exchange exchanges a service account token for an access token.
func (s *Server) exchange(values url.Values) (any, error) {
	if err := checkExchange(values); err != nil {
		return nil, err
	}
	p, err := target(values.Get("audience"))
	if err != nil {
		return nil, err
	}
	now := s.now()
	accepted, found := inForce(s.store.state().Trust[p.name()], now)
	if !found || accepted.Issuer == "" {
		return nil, errTarget
	}
	subjectToken := values.Get("subject_token")
	c, err := verify(subjectToken, accepted, pool(p.project), now)
	if err != nil {
		return nil, err
	}
	subject, ok := principal(p.project, c.Subject)
	if !ok {
		return nil, invalidGrant("the subject of the token is not a service account")
	}
	expires := now.Add(maxTokenLife)
	if end := c.Expiry.Time(); end.Before(expires) {
		expires = end
	}
	g := grant{principal: subject, scope: values.Get("scope"), expires: expires, membership: p.name()}
	answer, err := s.issue(g, subjectToken, now)
	answer.IssuedTokenType = typeAccessToken
	return answer, err
}

// checkExchange checks all parameters except the audience and the token.
func checkExchange(values url.Values) error {
	if values.Get("grant_type") != grantExchange {
		return oauthInvalid("unsupported_grant_type", "the grant type must be "+grantExchange)
	}
	if values.Get("requested_token_type") != typeAccessToken {
		return invalidRequest("the requested token type must be " + typeAccessToken)
	}
	if kind := values.Get("subject_token_type"); kind != typeJWT && kind != typeIDToken {
		return invalidRequest("the subject token type must be " + typeJWT + " or " + typeIDToken)
	}
	if values.Get("subject_token") == "" {
		return invalidRequest("the subject token is missing")
	}
	if values.Has("actor_token") {
		return invalidRequest("actor tokens are not supported")
	}
	return checkScope(values.Get("scope"))
}

var errTarget = oauthInvalid("invalid_target",
	"the audience names no membership with an issuer: identitynamespace:PROJECT.svc.id.goog:"+
		providerHost+"projects/PROJECT/locations/LOCATION/memberships/MEMBERSHIP")

var audiencePattern = regexp.MustCompile(`^identitynamespace:([^:]+(?::[^:]+)?)\.svc\.id\.goog:` +
	regexp.QuoteMeta(providerHost) + `projects/([^/]+)/locations/([^/]+)/memberships/([^/]+)$`)

// target returns the membership that an audience names. It must be in the pool's own project.
func target(audience string) (resourceName, error) {
	m := audiencePattern.FindStringSubmatch(audience)
	if m == nil || m[1] != m[2] {
		return resourceName{}, errTarget
	}
	p := resourceName{project: m[2], location: m[3], id: m[4]}
	if !p.valid() {
		return resourceName{}, errTarget
	}
	return p, nil
}

// verify accepts a token that a key in force signed for the pool. It uses go-jose, as kube-apiserver does, so that the
// token is checked by other code than package token, which signs.
func verify(token string, accepted trust, audience string, now time.Time) (jwt.Claims, error) {
	if len(token) > maxSubjectToken {
		return jwt.Claims{}, invalidGrant("the token is too long")
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil || !canonical(token) {
		return jwt.Claims{}, invalidGrant("the token is not a JWT signed by RS256, ES256 or ES384")
	}
	if err := checkHeader(token); err != nil {
		return jwt.Claims{}, err
	}
	key, err := keyOf(parsed.Headers, accepted.keys)
	if err != nil {
		return jwt.Claims{}, err
	}
	var c jwt.Claims
	if err := parsed.Claims(key.Public, &c); err != nil {
		return jwt.Claims{}, invalidGrant("the signature of the token is not good, or its claims are not")
	}
	if c.Issuer == "" || c.Issuer != accepted.Issuer {
		return jwt.Claims{}, invalidGrant("the token is of another issuer than the membership")
	}
	if !c.Audience.Contains(audience) {
		return jwt.Claims{}, invalidGrant("the token is not for the workload identity pool")
	}
	return c, checkTimes(c, now)
}

// canonical reports whether the parts of a token are in the only encoding that RFC 7515 allows. go-jose skips line
// breaks and bits after the last byte, so one token could be written in many ways.
func canonical(token string) bool {
	for part := range strings.SplitSeq(token, ".") {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return false
		}
	}
	return true
}

// keyOf returns the one key that may have signed.
func keyOf(headers []jose.Header, keys jwks.Set) (jwks.Key, error) {
	if len(headers) != 1 {
		return jwks.Key{}, invalidGrant("the token does not have one signature")
	}
	h := headers[0]
	key, found := keys.Lookup(h.KeyID)
	if h.KeyID == "" || !found {
		return jwks.Key{}, invalidGrant("no key of the membership has the kid of the token")
	}
	if key.Algorithm != h.Algorithm {
		return jwks.Key{}, invalidGrant("the algorithm of the token is not that of its key")
	}
	return key, nil
}

// checkHeader allows alg, kid and typ, and no header that could change the meaning of the signature. It parses the
// header itself, since go-jose does not report those that it knows.
func checkHeader(token string) error {
	encoded, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return invalidGrant("the token has a header that cannot be read")
	}
	header, err := strictjson.Members(raw)
	if err != nil {
		return invalidGrant("the token has a header that cannot be read")
	}
	for name, value := range header {
		text, isText := strictjson.Text(value)
		if !isText || name != "alg" && name != "kid" && (name != "typ" || text != "JWT") {
			return invalidGrant("the token has a header other than alg, kid and typ JWT")
		}
	}
	return nil
}

// checkTimes requires an expiry, which has not passed, and no start in the future.
func checkTimes(c jwt.Claims, now time.Time) error {
	if c.Expiry == nil {
		return invalidGrant("the token never expires")
	}
	for _, date := range []*jwt.NumericDate{c.Expiry, c.NotBefore, c.IssuedAt} {
		if date != nil && (*date < 1 || *date > lastDate) {
			return invalidGrant("a time of the token is before 1970 or after 9999")
		}
	}
	if now.Unix() >= int64(*c.Expiry) {
		return invalidGrant("the token is expired")
	}
	for _, date := range []*jwt.NumericDate{c.NotBefore, c.IssuedAt} {
		if date != nil && now.Add(leeway).Before(date.Time()) {
			return invalidGrant("the token is not yet valid")
		}
	}
	return nil
}

var accountName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// principal returns the subject as IAM knows it, in the pool of a project.
func principal(project, subject string) (string, bool) {
	rest, ok := strings.CutPrefix(subject, "system:serviceaccount:")
	namespace, name, both := strings.Cut(rest, ":")
	if !ok || !both || !labelPattern.MatchString(namespace) || !accountName.MatchString(name) {
		return "", false
	}
	return "principal://iam.googleapis.com/projects/" + project +
		"/locations/global/workloadIdentityPools/" + pool(project) +
		"/subject/ns/" + namespace + "/sa/" + name, true
}
