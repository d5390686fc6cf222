package vectors

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	issuer   = "https://issuer.example"
	audience = "sts.example"
	issued   = 1_700_000_000
	life     = 3600
)

// allTokens returns the vectors of tokens, in the order of the classes of failure.
func (g *generator) allTokens() []Token {
	return slices.Concat(g.good(), g.malformed(), g.badHeaders(), g.badClaims(), g.badKeys(), g.badSignatures(), g.wrong())
}

// bound is the payload of a good bound token with replacements: old, new ….
func bound(replace ...string) string {
	payload := fmt.Sprintf(`{"aud":["https://kubernetes.default.svc","%s"],"exp":%d,"iat":%d,"iss":"%s",`+
		`"jti":"5b0c4c1f-6a2a-4d5b-9d3e-0e7a5c0b8f11",`+
		`"kubernetes.io":{"namespace":"shop","node":{"name":"node-1","uid":"n-1"},"pod":{"name":"till-0","uid":"p-1"},`+
		`"serviceaccount":{"name":"till","uid":"s-1"},"warnafter":%d},"nbf":%d,"sub":"system:serviceaccount:shop:till"}`,
		audience, issued+life, issued, issuer, issued+3607, issued)
	return swap(payload, replace...)
}

const legacy = `{"iss":"kubernetes/serviceaccount","kubernetes.io/serviceaccount/namespace":"shop",` +
	`"kubernetes.io/serviceaccount/secret.name":"till-token","kubernetes.io/serviceaccount/service-account.name":"till",` +
	`"kubernetes.io/serviceaccount/service-account.uid":"s-1","sub":"system:serviceaccount:shop:till"}`

func header(alg, kid string) string { return fmt.Sprintf(`{"alg":"%s","kid":"%s"}`, alg, kid) }

// signed is a token by a key, with its proper header.
func (g *generator) signed(key, payload string) string {
	k := g.keys[key]
	return g.sign(key, header(k.Algorithm, k.KeyID), payload)
}

// vector is a token that is verified one minute after it was issued, with two RSA and two P-256 keys and the P-384 key.
func (g *generator) vector(name, failure, token, comment string) Token {
	return Token{
		Name: name, Comment: comment, Token: token, Failure: failure,
		Keys:   []string{"rsa-1", "rsa-2", "p256-1", "p256-2", "p384-1"},
		Issuer: issuer, Audience: audience, Now: at(60),
	}
}

// kid fills in what the header of a vector says.
func (v Token) kid(kid string) Token { v.KeyID = kid; return v }

func at(seconds int64) time.Time { return time.Unix(issued+seconds, 0).UTC() }

func (g *generator) good() []Token {
	var all []Token
	add := func(key, name, payload, comment string) *Token {
		v := g.vector(name, "", g.signed(key, payload), comment).kid(g.keys[key].KeyID)
		v.Claims = payload
		all = append(all, v)
		return &all[len(all)-1]
	}
	for _, key := range []string{"rsa-1", "rsa-2", "p256-1", "p384-1"} {
		add(key, "bound "+key, bound(), "")
		v := add(key, "legacy "+key, legacy, "has no expiry and no audience")
		v.Issuer, v.Audience = "kubernetes/serviceaccount", ""
	}
	v := add("p256-1", "audience as a string", bound(), "RFC 7519, section 4.1.3")
	v.Token = g.signed("p256-1", bound(`["https://kubernetes.default.svc","sts.example"]`, `"sts.example"`))
	v.Claims = bound(`["https://kubernetes.default.svc","sts.example"]`, `["sts.example"]`)
	v = add("p256-1", "fractions of seconds", bound(), "RFC 7519, section 2: they are cut off")
	v.Token = g.signed("p256-1", bound(`"nbf":1700000000`, `"nbf":1700000000.75`))
	v = add("p256-1", "typ JWT", bound(), "as API servers with an external signer write it")
	v.Token = g.sign("p256-1", fmt.Sprintf(`{"alg":"ES256","kid":"%s","typ":"JWT"}`, v.KeyID), bound())
	v = add("p256-1", "claims that are not known", bound(), "are ignored")
	v.Token = g.signed("p256-1", bound(`"jti"`, `"azp":{"x":[1,2]},"jti"`))
	v = add("rsa-1", "last second", bound(), "")
	v.Now = at(life - 1)
	v = add("rsa-1", "expired within the leeway", bound(), "")
	v.Now, v.LeewaySeconds = at(life+9), 10
	v = add("rsa-1", "issued in the future within the leeway", bound(), "")
	v.Now, v.LeewaySeconds = at(-10), 10
	return all
}

func (g *generator) malformed() []Token {
	good := g.signed("p256-1", bound())
	parts := strings.Split(good, ".")
	k := g.keys["p256-1"].KeyID
	join := func(p ...string) string { return strings.Join(p, ".") }
	bad := func(name, token, comment string) Token { return g.vector(name, "malformed", token, comment) }
	return []Token{
		bad("empty", "", ""),
		bad("no periods", "eyJhbGciOiJFUzI1NiJ9", ""),
		bad("two parts", join(parts[0], parts[1]), ""),
		bad("four parts", join(good, parts[2]), ""),
		bad("empty header", join("", parts[1], parts[2]), ""),
		bad("empty payload", join(parts[0], "", parts[2]), "detached, RFC 7515, appendix F").kid(k),
		bad("empty signature", join(parts[0], parts[1], ""), "").kid(k),
		bad("padding", join(parts[0], parts[1], parts[2]+"=="), "").kid(k),
		bad("line break", join(parts[0], parts[1][:8]+"\n"+parts[1][8:], parts[2]),
			"decoders that skip line breaks accept it").kid(k),
		bad("line break in the header", join(parts[0][:8]+"\n"+parts[0][8:], parts[1], parts[2]), ""),
		bad("space at the end", good+" ", "").kid(k),
		bad("standard alphabet", join(parts[0], parts[1], strings.Repeat("+/", 43)), "base64 instead of base64url").kid(k),
		bad("bits after the last byte", join(parts[0], parts[1], lastBits(parts[2])),
			"a second spelling of the same signature").kid(k),
		bad("JSON serialization",
			fmt.Sprintf(`{"protected":"%s","payload":"%s","signature":"%s"}`, parts[0], parts[1], parts[2]), ""),
		bad("too long", g.signed("p256-1", bound("till-0", strings.Repeat("x", 13_000))), "more than 16 KiB"),
	}
}

// lastBits sets a bit of the last character that encodes no part of the signature. 64 bytes leave four such bits.
func lastBits(signature string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	end := len(signature) - 1
	i := strings.IndexByte(alphabet, signature[end])
	return signature[:end] + alphabet[i+1:i+2]
}

func (g *generator) badHeaders() []Token {
	k := g.keys["p256-1"].KeyID
	bad := func(name, failure, header, comment string) Token {
		return g.vector(name, failure, g.sign("p256-1", header, bound()), comment)
	}
	format := func(h string) string { return fmt.Sprintf(h, k) }
	const malformed, unsupported = "malformed", "unsupported algorithm"
	return []Token{
		bad("header is not JSON", malformed, "alg", ""),
		bad("header is an array", malformed, `["alg","ES256"]`, ""),
		bad("header is null", malformed, `null`, ""),
		bad("header with something behind", malformed, format(`{"alg":"ES256","kid":"%s"}{}`), ""),
		bad("header not UTF-8", malformed, "{\"alg\":\"ES256\",\"kid\":\"\xff\"}", ""),
		bad("alg twice", malformed, format(`{"alg":"none","alg":"ES256","kid":"%s"}`),
			"two readers could see two algorithms"),
		bad("alg twice, escaped", malformed, format(`{"\u0061lg":"none","alg":"ES256","kid":"%s"}`),
			"the same name, spelled otherwise"),
		bad("kid twice", malformed, format(`{"alg":"ES256","kid":"x","kid":"%s"}`), ""),
		bad("alg in capitals", malformed, format(`{"ALG":"ES256","kid":"%s"}`), "member names have a case"),
		bad("alg missing", malformed, format(`{"kid":"%s"}`), ""),
		bad("alg null", malformed, format(`{"alg":null,"kid":"%s"}`), ""),
		bad("alg a number", malformed, format(`{"alg":256,"kid":"%s"}`), ""),
		bad("kid a number", malformed, `{"alg":"ES256","kid":1}`, ""),
		bad("kid too long", malformed, header("ES256", strings.Repeat("k", 1025)), ""),
		bad("crit", malformed, format(`{"alg":"ES256","b64":false,"crit":["b64"],"kid":"%s"}`), "RFC 7515, section 4.1.11"),
		bad("jwk in the header", malformed, format(`{"alg":"ES256","jwk":{},"kid":"%s"}`),
			"a token may not bring its own key"),
		bad("typ not JWT", malformed, format(`{"alg":"ES256","kid":"%s","typ":"at+jwt"}`), ""),
		g.vector("none", unsupported, b64([]byte(format(`{"alg":"none","kid":"%s"}`)))+"."+b64([]byte(bound()))+".AA",
			"RFC 8725, section 3.2").kid(k),
		bad("alg in small letters", unsupported, header("es256", k), "").kid(k),
		bad("HS256", unsupported, header("HS256", k), "the public key as a shared secret").kid(k),
		bad("PS256", unsupported, header("PS256", k), "no API server signs by it").kid(k),
		bad("ES512", unsupported, header("ES512", k), "").kid(k),
		bad("EdDSA", unsupported, header("EdDSA", k), "").kid(k),
	}
}

func (g *generator) badClaims() []Token {
	k := g.keys["p256-1"].KeyID
	bad := func(name, payload, comment string) Token {
		return g.vector(name, "malformed", g.signed("p256-1", payload), comment).kid(k)
	}
	return []Token{
		bad("payload is not JSON", "claims", ""),
		bad("payload is a string", `"claims"`, ""),
		bad("iss twice", bound(`"iss"`, `"iss":"https://other.example","iss"`), "RFC 7519, section 4"),
		bad("iss a number", bound(`"https://issuer.example"`, `1`), ""),
		bad("aud an object", bound(`["https://kubernetes.default.svc","sts.example"]`, `{}`), ""),
		bad("aud with a number", bound(`["https://kubernetes.default.svc","sts.example"]`, `["sts.example",1]`), ""),
		bad("aud null", bound(`["https://kubernetes.default.svc","sts.example"]`, `null`), ""),
		bad("exp a string", bound(`"exp":1700003600`, `"exp":"1700003600"`), ""),
		bad("exp too large", bound(`"exp":1700003600`, `"exp":1e300`), "overflows when made an integer"),
		bad("exp negative", bound(`"exp":1700003600`, `"exp":-1`), ""),
		bad("exp null", bound(`"exp":1700003600`, `"exp":null`), ""),
		bad("exp missing", bound(`"exp":1700003600,`, ``), "only legacy tokens never expire"),
		bad("kubernetes.io a string", `{"kubernetes.io":"shop"}`, ""),
		bad("namespace twice", bound(`"namespace"`, `"namespace":"bank","namespace"`), ""),
		bad("pod uid a number", bound(`"p-1"`, `1`), ""),
	}
}

func (g *generator) badKeys() []Token {
	p256, rsa := g.keys["p256-1"].KeyID, g.keys["rsa-1"].KeyID
	gone := g.vector("key not in the set", "unknown key", g.signed("p256-1", bound()),
		"what becomes of every token of a key that was retired").kid(p256)
	gone.Keys = []string{"p256-2"}
	none := g.vector("no keys at all", "unknown key", g.signed("p256-1", bound()), "").kid(p256)
	none.Keys = nil
	return []Token{
		gone, none,
		g.vector("kid missing", "unknown key", g.sign("p256-1", `{"alg":"ES256"}`, bound()),
			"it is not tried with every key"),
		g.vector("kid empty", "unknown key", g.sign("p256-1", header("ES256", ""), bound()),
			"as old versions of Kubernetes wrote it"),
		g.vector("kid of no key", "unknown key", g.sign("p256-1", header("ES256", "../../p256-1"), bound()),
			"").kid("../../p256-1"),
		g.vector("ES256 with the kid of an RSA key", "unsupported algorithm", g.sign("p256-1", header("ES256", rsa), bound()),
			"").kid(rsa),
		g.vector(
			"RS256 with the kid of a P-256 key", "unsupported algorithm", g.sign("rsa-1", header("RS256", p256), bound()), "",
		).kid(p256),
		g.vector("ES384 with the kid of a P-256 key", "unsupported algorithm",
			g.sign("p384-1", header("ES384", p256), bound()), "").kid(p256),
	}
}

func (g *generator) badSignatures() []Token {
	p256, rsa := g.keys["p256-1"].KeyID, g.keys["rsa-1"].KeyID
	parts := strings.Split(g.signed("p256-1", bound()), ".")
	other := strings.Split(g.signed("p256-1", bound("till", "boss")), ".")
	rs := strings.Split(g.signed("rsa-1", bound()), ".")
	bad := func(name, comment string, p ...string) Token {
		return g.vector(name, "bad signature", strings.Join(p, "."), comment).kid(p256)
	}
	return []Token{
		bad("another payload", "", parts[0], other[1], parts[2]),
		bad("signed by another key of the kind", "the kid of one key, the signature of another",
			strings.Split(g.sign("p256-2", header("ES256", p256), bound()), ".")...),
		bad("zero signature", "r and s are 0", parts[0], parts[1], b64(make([]byte, 64))),
		bad("short signature", "", parts[0], parts[1], b64(make([]byte, 63))),
		bad("a byte behind the signature", "", parts[0], parts[1], b64(append(g.raw(parts[2]), 0))),
		bad("a zero in front of s", "the same numbers, spelled otherwise", parts[0], parts[1],
			b64(slices.Insert(g.raw(parts[2]), 32, 0))),
		bad("r and s in ASN.1", "RFC 7518, section 3.4 wants them side by side", parts[0], parts[1],
			b64(append([]byte{0x30, 0x44, 2, 0x20}, make([]byte, 66)...))),
		bad("RSA signature", "", parts[0], parts[1], rs[2]),
		g.vector("RSA, another payload", "bad signature", strings.Join([]string{rs[0], other[1], rs[2]}, "."), "").kid(rsa),
		g.vector("RSA, signed by another key", "bad signature", g.sign("rsa-2", header("RS256", rsa), bound()), "").kid(rsa),
	}
}

func (g *generator) wrong() []Token {
	k := g.keys["rsa-1"].KeyID
	bad := func(name, failure, payload string, change func(*Token)) Token {
		v := g.vector(name, failure, g.signed("rsa-1", payload), "").kid(k)
		change(&v)
		return v
	}
	legacyWith := func(audience string) func(*Token) {
		return func(v *Token) { v.Issuer, v.Audience = "kubernetes/serviceaccount", audience }
	}
	return []Token{
		bad("issuer of another cluster", "wrong issuer", bound(issuer, "https://other.example"), func(*Token) {}),
		bad("issuer with a slash more", "wrong issuer", bound(issuer, issuer+"/"), func(*Token) {}),
		bad("issuer missing", "wrong issuer", bound(`"iss":"https://issuer.example",`, ``), func(v *Token) { v.Issuer = "" }),
		bad("legacy token where a bound one belongs", "wrong issuer", legacy, func(*Token) {}),
		bad("legacy token for an audience", "wrong audience", legacy, legacyWith(audience)),
		bad("legacy token that has an audience", "wrong audience", swap(legacy, `{`, `{"aud":["sts.example"],`),
			legacyWith("")),
		bad("legacy issuer without legacy claims", "wrong audience",
			`{"iss":"kubernetes/serviceaccount","sub":"system:serviceaccount:shop:till"}`, legacyWith("")),
		bad("audience not there", "wrong audience", bound(), func(v *Token) { v.Audience = "vault.example" }),
		bad("audience in capitals", "wrong audience", bound(), func(v *Token) { v.Audience = "STS.example" }),
		bad("no audience expected", "wrong audience", bound(), func(v *Token) { v.Audience = "" }),
		bad("no audience expected, an empty one there", "wrong audience", bound(`"sts.example"`, `""`),
			func(v *Token) { v.Audience = "" }),
		bad("expired this second", "expired", bound(), func(v *Token) { v.Now = at(life) }),
		bad("expired beyond the leeway", "expired", bound(), func(v *Token) { v.Now, v.LeewaySeconds = at(life+10), 10 }),
		bad("legacy token that expires", "expired", swap(legacy, `{`, `{"exp":1700000059,`), legacyWith("")),
		bad("not before later", "not yet valid", bound(`"nbf":1700000000`, `"nbf":1700000061`), func(*Token) {}),
		bad("issued in the future", "not yet valid", bound(), func(v *Token) { v.Now, v.LeewaySeconds = at(-11), 10 }),
		bad("issued in the future, without nbf", "not yet valid", bound(`"nbf":1700000000,`, ``),
			func(v *Token) { v.Now = at(-1) }),
	}
}
