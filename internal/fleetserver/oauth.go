package fleetserver

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// maxForm is the longest body of a token request.
const maxForm = 64 << 10

// oauthError is an error of RFC 6749, section 5.2. The description never contains a part of a token.
type oauthError struct {
	status            int
	code, description string
}

func (e *oauthError) Error() string { return e.code + ": " + e.description }

func oauthInvalid(code, description string) error {
	return &oauthError{http.StatusBadRequest, code, description}
}

func invalidGrant(description string) error   { return oauthInvalid("invalid_grant", description) }
func invalidRequest(description string) error { return oauthInvalid("invalid_request", description) }

// oauth serves an endpoint that takes parameters and answers in JSON.
func (s *Server) oauth(endpoint func(url.Values) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		values, err := parameters(r)
		var answer any
		if err == nil {
			answer, err = endpoint(values)
		}
		if err != nil {
			s.logOAuth(r, err)
			writeOAuthError(w, err)
			return
		}
		w.Header().Set("Pragma", "no-cache") // RFC 6749, section 5.1
		writeJSON(w, http.StatusOK, answer)
	})
}

// logOAuth logs refusals, and nothing of what was sent.
func (s *Server) logOAuth(r *http.Request, err error) {
	if _, refused := errors.AsType[*oauthError](err); refused {
		s.log.Info("refused", "endpoint", r.Pattern, "error", err)
		return
	}
	s.log.Error("failed", "endpoint", r.Pattern, "error", err)
}

func writeOAuthError(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*oauthError](err)
	switch {
	case ok:
	case errors.Is(err, errTooManyTokens):
		e = &oauthError{http.StatusServiceUnavailable, "temporarily_unavailable", err.Error()}
	default:
		e = &oauthError{http.StatusInternalServerError, "server_error", "internal error; see the log of the server"}
	}
	writeJSON(w, e.status, map[string]string{"error": e.code, "error_description": e.description})
}

// parameters reads the body, never the query. Duplicates are an error (RFC 6749, section 3.2).
func parameters(r *http.Request) (url.Values, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, invalidRequest("the body is too long or broke off")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && kind == "application/json" {
		return jsonParameters(body)
	}
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("the body is neither a form nor JSON")
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalidRequest("the body is not a form")
	}
	for _, all := range values {
		if len(all) > 1 {
			return nil, invalidRequest("a parameter comes twice")
		}
	}
	return values, nil
}

// jsonParameters reads an object of strings, with names as in the REST API of Google's STS or as in the form.
func jsonParameters(body []byte) (url.Values, error) {
	object, err := strictjson.Members(body)
	if err != nil {
		return nil, invalidRequest("the body is not a JSON object, or a parameter comes twice")
	}
	values := url.Values{}
	for name, raw := range object {
		value, isText := strictjson.Text(raw)
		if !isText {
			return nil, invalidRequest("a parameter is not a string")
		}
		name = snakeCase(name)
		if values.Has(name) {
			return nil, invalidRequest("a parameter comes twice")
		}
		values.Set(name, value)
	}
	return values, nil
}

// snakeCase converts grantType to grant_type.
func snakeCase(name string) string {
	var out strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			out.WriteByte('_')
			r += 'a' - 'A'
		}
		out.WriteRune(r)
	}
	return out.String()
}

// checkScope refuses scopes that RFC 6749, section 3.3, does not allow.
func checkScope(scope string) error {
	const maxScope = 1024
	bad := strings.ContainsFunc(scope, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' })
	if bad || len(scope) > maxScope || len(strings.Fields(scope)) == 0 {
		return oauthInvalid("invalid_scope", "the scope is missing, too long, or not a list of names")
	}
	return nil
}

// accessToken is the answer of a token endpoint.
type accessToken struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
}

// issue answers a request, which it recognizes by its token.
func (s *Server) issue(g grant, token string, now time.Time) (accessToken, error) {
	secret, g, err := s.tokens.issue(g, g.membership, token)
	if err != nil {
		return accessToken{}, err
	}
	return accessToken{AccessToken: secret, TokenType: "Bearer", ExpiresIn: g.expires.Unix() - now.Unix()}, nil
}

// revoke serves RFC 7009: an unknown token is no error.
func (s *Server) revoke(values url.Values) (any, error) {
	token := values.Get("token")
	if token == "" {
		return nil, invalidRequest("the parameter token is missing")
	}
	return struct{}{}, s.tokens.revoke(token)
}
