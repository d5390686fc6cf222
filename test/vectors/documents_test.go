package vectors

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
)

// jwk is one key as kube-apiserver writes it.
func (g *generator) jwk(name string) string {
	g.t.Helper()
	k := g.keys[name]
	switch public := g.private[name].Public().(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf(`{"use":"sig","kty":"RSA","kid":"%s","alg":"%s","n":"%s","e":"AQAB"}`, k.KeyID, k.Algorithm,
			b64(public.N.Bytes()))
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			g.t.Fatal(err)
		}
		half := 1 + len(point)/2
		return fmt.Sprintf(`{"use":"sig","kty":"EC","kid":"%s","crv":"%s","alg":"%s","x":"%s","y":"%s"}`,
			k.KeyID, public.Params().Name, k.Algorithm, b64(point[1:half]), b64(point[half:]))
	}
	g.t.Fatalf("key %s is neither RSA nor ECDSA", name)
	return ""
}

func set(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func (g *generator) allSets() []Document {
	return slices.Concat(g.goodSets(), g.badSets(), g.badRSA(), g.badEC())
}

func (g *generator) goodSets() []Document {
	good := func(name, comment string, names ...string) Document {
		d := Document{Name: name, Comment: comment}
		var all []string
		for _, n := range names {
			all, d.KeyIDs = append(all, g.jwk(n)), append(d.KeyIDs, g.keys[n].KeyID)
		}
		d.Document = set(all...)
		return d
	}
	extra := good("members that are not known", "RFC 7517, sections 4 and 5: ignored", "p256-1")
	extra.Document = swap(`{"for":"test",`+extra.Document[1:], `"use"`, `"x5t":"AA","use"`)
	return []Document{
		good("no keys", ""),
		good("RSA", "", "rsa-1"),
		good("P-256", "", "p256-1"),
		good("P-384", "", "p384-1"),
		good("old and new", "as during a rotation", "rsa-1", "rsa-2"),
		good("another order", "the order is kept", "rsa-2", "p256-2", "rsa-1"),
		good("from RSA to ECDSA", "", "rsa-1", "p256-1", "p384-1"),
		extra,
	}
}

func (g *generator) badSets() []Document {
	p256, rsa := g.jwk("p256-1"), g.jwk("rsa-1")
	kid := g.keys["p256-1"].KeyID
	bad := func(name, failure, document, comment string) Document {
		return Document{Name: name, Failure: failure, Document: document, Comment: comment}
	}
	replaced := func(name, failure, from, to string) Document {
		return bad(name, failure, set(swap(p256, from, to)), "")
	}
	return []Document{
		bad("empty", "malformed", "", ""),
		bad("not JSON", "malformed", "-----BEGIN PUBLIC KEY-----", ""),
		bad("an array", "malformed", "["+p256+"]", ""),
		bad("a key and no set", "malformed", p256, ""),
		bad("keys null", "malformed", `{"keys":null}`, ""),
		bad("keys an object", "malformed", `{"keys":`+p256+`}`, ""),
		bad("keys twice", "malformed", `{"keys":[],"keys":[`+p256+`]}`, "two readers could see two sets"),
		bad("keys in capitals", "malformed", `{"Keys":[]}`, ""),
		bad("something behind", "malformed", set(p256)+"{}", ""),
		bad("a key null", "malformed", set("null"), ""),
		bad("one kid twice", "duplicate key ID", set(rsa, swap(p256, kid, g.keys["rsa-1"].KeyID)), "which of them is meant?"),
		bad("one key twice", "duplicate key ID", set(p256, p256), ""),
		replaced("member twice", "malformed", `"kid"`, `"alg":"ES384","kid"`),
		replaced("kid missing", "malformed", `"kid":"`+kid+`",`, ``),
		replaced("kid empty", "malformed", kid, ``),
		replaced("kid too long", "malformed", kid, strings.Repeat("k", 1025)),
		replaced("kid null", "malformed", `"`+kid+`"`, `null`),
		replaced("use missing", "malformed", `"use":"sig",`, ``),
		replaced("use enc", "unsupported key", `"sig"`, `"enc"`),
		replaced("alg missing", "malformed", `"alg":"ES256",`, ``),
		replaced("alg none", "unsupported key", `"ES256"`, `"none"`),
		replaced("alg of another curve", "unsupported key", `"ES256"`, `"ES384"`),
		replaced("alg of another kind", "unsupported key", `"ES256"`, `"RS256"`),
		bad("RSA with PS256", "unsupported key", set(swap(rsa, "RS256", "PS256")), "no API server signs by it"),
		bad("Ed25519", "unsupported key",
			set(`{"use":"sig","kty":"OKP","kid":"k","crv":"Ed25519","alg":"EdDSA",`+
				`"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`), ""),
		bad("symmetric", "private key", set(`{"use":"sig","kty":"oct","kid":"k","alg":"HS256","k":"dGVzdC1vbmx5"}`), ""),
	}
}

func (g *generator) badRSA() []Document {
	good := g.jwk("rsa-1")
	key := g.private["rsa-1"].Public().(*rsa.PublicKey)
	modulus := key.N.Bytes()
	bad := func(name, failure, from, to, comment string) Document {
		return Document{Name: "RSA, " + name, Failure: failure, Document: set(swap(good, from, to)), Comment: comment}
	}
	n := func(name, failure string, modulus []byte) Document {
		return bad(name, failure, b64(key.N.Bytes()), b64(modulus), "")
	}
	all := []Document{
		n("1024 bits", "weak key", modulus[:128]),
		n("2047 bits", "weak key", append([]byte{modulus[0] >> 1}, modulus[1:]...)),
		n("even modulus", "weak key", append(slices.Clone(modulus[:255]), modulus[255]&^1)),
		n("more than 8192 bits", "unsupported key", slices.Concat(modulus, modulus, modulus, modulus, modulus)),
		n("modulus with a zero in front", "malformed", append([]byte{0}, modulus...)),
		bad("modulus with padding", "malformed", `","e"`, `==","e"`, ""),
		bad("modulus with a line break", "malformed", `","e"`, `\n","e"`, "decoders that skip line breaks accept it"),
		bad("exponent 1", "weak key", "AQAB", "AQ", "the signature is the message"),
		bad("exponent even", "weak key", "AQAB", "AQAA", ""),
		bad("exponent of 40 bits", "unsupported key", "AQAB", "AQAAAAE", ""),
		bad("exponent empty", "malformed", "AQAB", "", ""),
		bad("exponent a number", "malformed", `"AQAB"`, "65537", ""),
		bad("modulus missing", "malformed", `"n"`, `"m"`, ""),
	}
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		all = append(all, bad("private member "+member, "private key", `"n"`, `"`+member+`":"AQAB","n"`, ""))
	}
	return all
}

func (g *generator) badEC() []Document {
	good := g.jwk("p256-1")
	key := g.private["p256-1"].Public().(*ecdsa.PublicKey)
	point, err := key.Bytes()
	if err != nil {
		g.t.Fatal(err)
	}
	x, y := b64(point[1:33]), b64(point[33:])
	bad := func(name, failure, from, to, comment string) Document {
		return Document{Name: "EC, " + name, Failure: failure, Document: set(swap(good, from, to)), Comment: comment}
	}
	return []Document{
		bad("private member", "private key", `"x"`, `"d":"AQAB","x"`, ""),
		bad("not on the curve", "malformed", x, y, "reveals bits of a private key that is multiplied with it"),
		bad("x too short", "malformed", x, b64(point[2:33]), "RFC 7518, section 6.2.1.2"),
		bad("y with a zero in front", "malformed", y, b64(append([]byte{0}, point[33:]...)), ""),
		bad("a byte of y in x", "malformed", fmt.Sprintf(`"x":"%s","y":"%s"`, x, y),
			fmt.Sprintf(`"x":"%s","y":"%s"`, b64(point[1:34]), b64(point[34:])), "one after the other, they are the same point"),
		bad("bits after the last byte", "malformed", x, lastBits(x), "a second spelling of the same key"),
		bad("y missing", "malformed", `"y"`, `"z"`, ""),
		bad("point at infinity", "malformed", fmt.Sprintf(`"x":"%s","y":"%s"`, x, y),
			fmt.Sprintf(`"x":"%s","y":"%s"`, b64(make([]byte, 32)), b64(make([]byte, 32))), ""),
		bad("coordinates of another curve", "malformed", "P-256", "P-384", ""),
		bad("P-521", "unsupported key", "P-256", "P-521", ""),
		bad("secp256k1", "unsupported key", "P-256", "secp256k1", ""),
		bad("crv missing", "malformed", `"crv":"P-256",`, ``, ""),
	}
}

func discoveries() []Document {
	const good = `{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/openid/v1/jwks",` +
		`"response_types_supported":["id_token"],` +
		`"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256","RS256"]}`
	bad := func(name, from, to, comment string) Document {
		return Document{Name: name, Failure: "malformed", Document: swap(good, from, to), Comment: comment}
	}
	return []Document{
		{Name: "as kube-apiserver serves it", Document: good},
		{Name: "with a path", Document: swap(good, "https://issuer.example", "https://storage.example/cluster-1")},
		{Name: "members that are not known", Document: swap(good, `{`, `{"claims_supported":["sub"],`)},
		bad("empty", good, "", ""),
		bad("an array", good, "[]", ""),
		bad("issuer missing", `"issuer":"https://issuer.example",`, ``, ""),
		bad("issuer twice", `{`, `{"issuer":"https://other.example",`, ""),
		bad("issuer null", `"https://issuer.example"`, `null`, ""),
		bad("issuer http", `"https://issuer.example"`, `"http://issuer.example"`, "OpenID Connect Discovery 1.0, section 3"),
		bad("issuer without a host", `"https://issuer.example"`, `"https:///path"`, ""),
		bad("issuer with a query", `"https://issuer.example"`, `"https://issuer.example?cluster=1"`, ""),
		bad("issuer with an empty query", `"https://issuer.example"`, `"https://issuer.example?"`, ""),
		bad("issuer with a fragment", `"https://issuer.example"`, `"https://issuer.example#1"`, ""),
		bad("jwks_uri http", `"https://issuer.example/openid`, `"http://issuer.example/openid`, ""),
		bad("jwks_uri missing", `jwks_uri`, `jwks_url`, ""),
		bad("algorithms a string", `["ES256","RS256"]`, `"ES256"`, ""),
		bad("algorithms null", `["ES256","RS256"]`, `null`, ""),
		bad("algorithms numbers", `["ES256","RS256"]`, `[256]`, ""),
	}
}
