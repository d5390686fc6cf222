package fleetserver_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/gkehub/v1"
	"google.golang.org/api/option"
	sts "google.golang.org/api/sts/v1"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

const wantPrincipal = "principal://iam.googleapis.com/projects/demo-project/locations/global/" +
	"workloadIdentityPools/demo-project.svc.id.goog/subject/ns/shop/sa/till"

func concatenated(t testing.TB, der []byte) []byte {
	t.Helper()
	var signature struct{ R, S *big.Int }
	_, err := asn1.Unmarshal(der, &signature)
	must(t, err)
	out := make([]byte, 64)
	signature.R.FillBytes(out[:32])
	signature.S.FillBytes(out[32:])
	return out
}

// TestExternalAccount is what a pod does: Google's library reads the projected token and trades it.
func TestExternalAccount(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	path := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(path, []byte(f.good(first)), 0o600))
	config, err := json.Marshal(map[string]any{
		"type": "external_account", "audience": audience("m"), "token_url": f.url + "/v1/token",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"credential_source":  map[string]string{"file": path},
	})
	must(t, err)
	credentials, err := google.CredentialsFromJSONWithType(t.Context(), config, google.ExternalAccount,
		"https://www.googleapis.com/auth/cloud-platform")
	must(t, err)
	response, err := oauth2.NewClient(t.Context(), credentials.TokenSource).Get(f.url + "/v1/whoami")
	must(t, err)
	defer response.Body.Close()
	if body := readAll(t, response.Body); response.StatusCode != http.StatusOK || !strings.Contains(body, wantPrincipal) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// TestSTSClient speaks JSON.
func TestSTSClient(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	service, err := sts.NewService(t.Context(), option.WithEndpoint(f.url+"/"), option.WithoutAuthentication())
	must(t, err)
	values := form("m", f.good(first))
	request := &sts.GoogleIdentityStsV1ExchangeTokenRequest{
		Audience: values.Get("audience"), GrantType: values.Get("grant_type"), Scope: values.Get("scope"),
		RequestedTokenType: values.Get("requested_token_type"), SubjectToken: values.Get("subject_token"),
		SubjectTokenType: values.Get("subject_token_type"),
	}
	response, err := service.V1.Token(request).Do()
	must(t, err)
	if response.TokenType != "Bearer" || response.ExpiresIn < 1200 || response.ExpiresIn > 1800 {
		t.Errorf("%s token of %d s", response.TokenType, response.ExpiresIn)
	}
	if who := f.whoami(response.AccessToken); who.Principal != wantPrincipal || who.Scope != request.Scope {
		t.Errorf("whoami: %d %s", who.status, who.body)
	}
}

func TestEachAlgorithm(t *testing.T) {
	f := newFleet(t)
	keys := []keystore.KeyPair{first, rsaKey, p384}
	f.register("m", keys...)
	for _, k := range keys {
		a := f.exchange("m", f.good(k))
		if a.status != http.StatusOK || a.TokenType != "Bearer" ||
			a.IssuedType != "urn:ietf:params:oauth:token-type:access_token" {
			t.Errorf("%s: %d %s", k.Algorithm, a.status, a.body)
		}
	}
}

// TestRefusals changes one thing of a good token each time.
func TestRefusals(t *testing.T) {
	f := newFleet(t)
	f.register("m", first, rsaKey, second)
	f.publish("m", first, rsaKey) // second is retired
	f.register("other", stranger)
	now := f.now()
	with := func(change func(*token.Claims)) token.Claims {
		c := claims(now)
		change(&c)
		return c
	}
	hs256 := func(secret []byte) string {
		return craft(t, map[string]any{"alg": "HS256", "kid": rsaKey.KeyID}, claims(now), func(signed []byte) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write(signed)
			return mac.Sum(nil)
		})
	}
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Signer.Public())
	must(t, err)
	pem, err := jwks.MarshalPublicKey(rsaKey.Signer.Public())
	must(t, err)
	header := func(alg, kid string) map[string]any { return map[string]any{"alg": alg, "kid": kid, "typ": "JWT"} }
	extra := func(name string, value any) map[string]any {
		h := header(jwks.ES256, first.KeyID)
		h[name] = value
		return h
	}
	raw := func(change func(map[string]any)) map[string]any {
		content, err := json.Marshal(claims(now))
		must(t, err)
		c := map[string]any{}
		must(t, json.Unmarshal(content, &c))
		change(c)
		return c
	}
	long := sign(t, first, with(func(c *token.Claims) { c.ID = strings.Repeat("x", 11<<10) }))
	for what, subject := range map[string]string{
		"not a token":      "a.b.c",
		"alg none":         craft(t, header("none", first.KeyID), claims(now), func([]byte) []byte { return nil }),
		"HMAC with DER":    hs256(der),
		"HMAC with PEM":    hs256(pem),
		"HMAC with JWKS":   hs256(keySet(t, first, rsaKey)),
		"RS256 by ES key":  signedAs(t, header(jwks.RS256, first.KeyID), rsaKey, claims(now)),
		"ES256 by RSA key": signedAs(t, header(jwks.ES256, rsaKey.KeyID), first, claims(now)),
		"PS256 by RSA key": signedAs(t, header("PS256", rsaKey.KeyID), rsaKey, claims(now)),
		"RS384 by RSA key": signedAs(t, header("RS384", rsaKey.KeyID), rsaKey, claims(now)),
		"wrong signature":  signedAs(t, header(jwks.ES256, first.KeyID), stranger, claims(now)),
		"unknown kid": sign(t, keystore.KeyPair{Signer: first.Signer, Algorithm: first.Algorithm, KeyID: "nobody"},
			claims(now)),
		"no kid":             signedAs(t, map[string]any{"alg": jwks.ES256}, first, claims(now)),
		"another membership": sign(t, stranger, claims(now)),
		"retired key":        sign(t, second, claims(now)),
		"crit":               signedAs(t, extra("crit", []string{"exp"}), first, claims(now)),
		"crit b64": signedAs(t,
			map[string]any{"alg": jwks.ES256, "kid": first.KeyID, "crit": []string{"b64"}, "b64": true}, first, claims(now)),
		"jwk":            signedAs(t, extra("jwk", json.RawMessage(firstJWK(t, first))), first, claims(now)),
		"x5c":            signedAs(t, extra("x5c", []string{"AAAA"}), first, claims(now)),
		"nonce, empty":   signedAs(t, extra("nonce", ""), first, claims(now)),
		"x5t":            signedAs(t, extra("x5t", "AAAA"), first, claims(now)),
		"typ":            signedAs(t, extra("typ", "at+jwt"), first, claims(now)),
		"other issuer":   sign(t, first, with(func(c *token.Claims) { c.Issuer = issuer + "/" })),
		"no issuer":      sign(t, first, with(func(c *token.Claims) { c.Issuer = "" })),
		"other audience": sign(t, first, with(func(c *token.Claims) { c.Audience = []string{"kubernetes"} })),
		"other pool":     sign(t, first, with(func(c *token.Claims) { c.Audience = []string{"other-project.svc.id.goog"} })),
		"no audience":    sign(t, first, with(func(c *token.Claims) { c.Audience = nil })),
		"expired": sign(t, first,
			with(func(c *token.Claims) { c.Expiry = token.NewNumericDate(now.Add(-time.Second)) })),
		"no exp":         sign(t, first, with(func(c *token.Claims) { c.Expiry = 0 })),
		"far exp":        sign(t, first, raw(func(c map[string]any) { c["exp"] = 1e17 })),
		"exp in letters": sign(t, first, raw(func(c map[string]any) { c["exp"] = "never" })),
		"not yet valid": sign(t, first,
			with(func(c *token.Claims) { c.NotBefore = token.NewNumericDate(now.Add(time.Minute)) })),
		"far nbf": sign(t, first, raw(func(c map[string]any) { c["nbf"] = 1e18 })),
		"issued later": sign(t, first,
			with(func(c *token.Claims) { c.IssuedAt = token.NewNumericDate(now.Add(time.Minute)) })),
		"a user":          sign(t, first, with(func(c *token.Claims) { c.Subject = "till" })),
		"no subject":      sign(t, first, with(func(c *token.Claims) { c.Subject = "" })),
		"no namespace":    sign(t, first, with(func(c *token.Claims) { c.Subject = "system:serviceaccount::till" })),
		"slash in a name": sign(t, first, with(func(c *token.Claims) { c.Subject = "system:serviceaccount:shop:a/../b" })),
		"another colon":   sign(t, first, with(func(c *token.Claims) { c.Subject += ":x" })),
		"legacy": sign(t, first,
			token.NewLegacyClaims(token.Legacy{
				Namespace: "shop", ServiceAccountName: "till", SecretName: "s", ServiceAccountUID: "u",
			})),
		"longer than 16 KiB": long + strings.Repeat("x", 16<<10-len(long)+1),
		"two payload members": craft(t, header(jwks.ES256, first.KeyID), json.RawMessage(`{"iss":1,"iss":2}`),
			func([]byte) []byte { return nil }),
	} {
		t.Run(what, func(t *testing.T) {
			f := &fleet{TB: t, Server: f.Server}
			a := f.exchange("m", subject)
			if a.status != http.StatusBadRequest || a.Error != "invalid_grant" || a.AccessToken != "" {
				t.Errorf("%d %s", a.status, a.body)
			}
			for part := range strings.SplitSeq(subject, ".") {
				if len(part) > 1 && strings.Contains(a.body, part) {
					t.Errorf("the answer quotes the token: %s", a.body)
				}
			}
		})
	}
	for _, k := range []keystore.KeyPair{first, rsaKey} { // so that it was what was changed that was refused
		if a := f.exchange("m", sign(t, k, claims(now))); a.status != http.StatusOK {
			t.Errorf("good token of %s: %d %s", k, a.status, a.body)
		}
	}
	if a := f.exchange("m", signedAs(t, header(jwks.ES256, first.KeyID), first, claims(now))); a.status != http.StatusOK {
		t.Errorf("good crafted token: %s", a.body)
	}
	if a := f.exchange("m",
		sign(t, first, with(func(c *token.Claims) { c.ID = strings.Repeat("x", 10<<10) }))); a.status != http.StatusOK {
		t.Errorf("good long token: %s", a.body)
	}
}

// firstJWK is one key of a set.
func firstJWK(t *testing.T, k keystore.KeyPair) []byte {
	t.Helper()
	var set struct{ Keys []json.RawMessage }
	must(t, json.Unmarshal(keySet(t, k), &set))
	return set.Keys[0]
}

func TestLeewayIsForBeginningsOnly(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	soon := claims(f.now())
	soon.NotBefore = token.NewNumericDate(f.now().Add(20 * time.Second))
	soon.IssuedAt = soon.NotBefore
	if a := f.exchange("m", sign(t, first, soon)); a.status != http.StatusOK {
		t.Errorf("issued in 20 s: %s", a.body)
	}
	f.advance(30*time.Minute + time.Second)
	if a := f.exchange("m", sign(t, first, soon)); a.Error != "invalid_grant" {
		t.Errorf("expired a second ago: %s", a.body)
	}
}

// TestTargets asks for memberships that are not there, with a token that is good for one.
func TestTargets(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	other := strings.ReplaceAll(audience("m"), project, "other-project")
	for what, audience := range map[string]string{
		"nothing":        "",
		"the pool":       project + ".svc.id.goog",
		"unknown":        audience("unknown"),
		"other project":  other,
		"two projects":   strings.Replace(audience("m"), project, "other-project", 1),
		"other provider": strings.Replace(audience("m"), "gkehub.googleapis.com", "example.com", 1),
		"longer":         audience("m") + "/x",
		"upper case":     strings.Replace(audience("m"), "memberships/m", "memberships/M", 1),
	} {
		values := form("m", f.good(first))
		values.Set("audience", audience)
		if a := f.post("/v1/token", values); a.status != http.StatusBadRequest || a.Error != "invalid_target" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
}

func TestRequestsThatAreNotExchanges(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	subject := f.good(first)
	without := func(name string) string {
		values := form("m", subject)
		values.Del(name)
		return values.Encode()
	}
	with := func(name, value string) string {
		values := form("m", subject)
		values.Set(name, value)
		return values.Encode()
	}
	for what, test := range map[string]struct{ body, want string }{
		"no grant type":      {without("grant_type"), "unsupported_grant_type"},
		"another grant type": {with("grant_type", "client_credentials"), "unsupported_grant_type"},
		"no token":           {without("subject_token"), "invalid_request"},
		"no token type":      {without("subject_token_type"), "invalid_request"},
		"SAML":               {with("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), "invalid_request"},
		"refresh token": {
			with("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), "invalid_request",
		},
		"actor":             {with("actor_token", "x"), "invalid_request"},
		"no scope":          {without("scope"), "invalid_scope"},
		"scope with quotes": {with("scope", `a"b`), "invalid_scope"},
		"twice":             {with("scope", "a") + "&scope=b", "invalid_request"},
		"not a form":        {"%zz", "invalid_request"},
		"too long":          {with("options", strings.Repeat("x", 64<<10)), "invalid_request"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/token", strings.NewReader(test.body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if a := f.send(r); a.status != http.StatusBadRequest || a.Error != test.want {
			t.Errorf("%s: %d %s, want %s", what, a.status, a.body, test.want)
		}
	}
	query := httptest.NewRequest(http.MethodPost, "/v1/token?"+form("m", subject).Encode(), nil)
	if a := f.send(query); a.Error != "invalid_request" {
		t.Errorf("parameters in the query: %d %s", a.status, a.body)
	}
	text := httptest.NewRequest(http.MethodPost, "/v1/token", strings.NewReader(form("m", subject).Encode()))
	text.Header.Set("Content-Type", "text/plain")
	if a := f.send(text); a.Error != "invalid_request" {
		t.Errorf("text: %d %s", a.status, a.body)
	}
}

// TestJSONRequests takes JSON, in which no parameter may come twice, under any of its names.
func TestJSONRequests(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	post := func(body string) answer {
		r := httptest.NewRequest(http.MethodPost, "/v1/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		return f.send(r)
	}
	object := map[string]string{}
	for name, values := range form("m", f.good(first)) {
		object[name] = values[0]
	}
	good, err := json.Marshal(object)
	must(t, err)
	if a := post(string(good)); a.status != http.StatusOK {
		t.Errorf("good: %d %s", a.status, a.body)
	}
	rest := strings.TrimSuffix(string(good), "}")
	for what, body := range map[string]string{
		"twice":            rest + `,"scope":"other"}`,
		"escaped":          rest + `,"sc\u006fpe":"other"}`,
		"in another style": rest + `,"grantType":"x"}`,
		"a number":         rest + `,"options":5}`,
		"null":             rest + `,"options":null}`,
		"more follows":     string(good) + "{}",
		"a list":           "[]",
	} {
		if a := post(body); a.status != http.StatusBadRequest || a.Error != "invalid_request" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
}

// TestMembershipsWithoutKeysOrIssuer are known, but not by the STS.
func TestMembershipsWithoutKeysOrIssuer(t *testing.T) {
	f := newFleet(t)
	f.register("no-keys")
	if a := f.exchange("no-keys", f.good(first)); a.Error != "invalid_grant" {
		t.Errorf("no keys: %s", a.body)
	}
	m := &gkehub.Membership{Authority: &gkehub.Authority{OidcJwks: encoded(keySet(t, first))}}
	_, err := f.memberships().Create(parent, m).MembershipId("no-issuer").Do()
	must(t, err)
	c := claims(f.now())
	c.Issuer = ""
	if a := f.exchange("no-issuer", sign(t, first, c)); a.Error != "invalid_target" {
		t.Errorf("no issuer: %s", a.body)
	}
}

func TestAccessTokenEndsWithItsSubject(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	c := claims(f.now())
	c.Expiry = token.NewNumericDate(f.now().Add(10 * time.Minute))
	a := f.exchange("m", sign(t, first, c))
	if a.ExpiresIn < 300 || a.ExpiresIn > 600 {
		t.Errorf("expires in %d s", a.ExpiresIn)
	}
	c.Expiry = token.NewNumericDate(f.now().Add(24 * time.Hour))
	day := f.exchange("m", sign(t, first, c))
	if day.ExpiresIn != 3600 {
		t.Errorf("of a day: expires in %d s", day.ExpiresIn)
	}
	f.advance(10 * time.Minute)
	if who := f.whoami(a.AccessToken); who.status != http.StatusUnauthorized || who.header.Get("WWW-Authenticate") == "" {
		t.Errorf("after its end: %d %s", who.status, who.body)
	}
	if who := f.whoami(day.AccessToken); who.status != http.StatusOK {
		t.Errorf("before its end: %d %s", who.status, who.body)
	}
}

// TestSameSubjectToken trades one token again and again: it gets the same access token, until that is revoked.
func TestSameSubjectToken(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.register("other", first)
	subject := f.good(first)
	one := f.exchange("m", subject)
	if again := f.exchange("m", subject); again.AccessToken != one.AccessToken || again.ExpiresIn > one.ExpiresIn {
		t.Errorf("again: %d %s, want the same token", again.status, again.body)
	}
	values := form("m", subject)
	values.Set("scope", "other")
	for what, a := range map[string]answer{
		"another scope": f.post("/v1/token", values), "another membership": f.exchange("other", subject),
		"another token": f.exchange("m", f.good(first)),
	} {
		if a.status != http.StatusOK || a.AccessToken == one.AccessToken {
			t.Errorf("%s: %d, and the same token: %v", what, a.status, a.AccessToken == one.AccessToken)
		}
	}
	f.post("/revoke", url.Values{"token": {one.AccessToken}})
	if a := f.exchange("m", subject); a.status != http.StatusOK || a.AccessToken == one.AccessToken {
		t.Errorf("after its end: %d, and the same token: %v", a.status, a.AccessToken == one.AccessToken)
	}
}

func TestRevoke(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	one, two := f.exchange("m", f.good(first)), f.exchange("m", f.good(first))
	for range 2 { // again is no error
		if a := f.post("/revoke", url.Values{"token": {one.AccessToken}}); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if a := f.post("/revoke", nil); a.Error != "invalid_request" {
		t.Errorf("without a token: %d %s", a.status, a.body)
	}
	for range 2 {
		if who := f.whoami(one.AccessToken); who.status != http.StatusUnauthorized {
			t.Errorf("revoked: %d", who.status)
		}
		if who := f.whoami(two.AccessToken); who.status != http.StatusOK {
			t.Errorf("not revoked: %d", who.status)
		}
		f.reopen()
	}
}
