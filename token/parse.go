package token

import (
	"encoding/base64"
	"strings"

	"github.com/keyturn/keyturn/internal/strictjson"
	"github.com/keyturn/keyturn/jwks"
)

// MaxSize is the length in bytes above which a token is Malformed.
const MaxSize = 16 << 10

// Header is the header of a token (RFC 7515, section 4). kube-apiserver writes no other members, and accepts no others
// from an external signer.
type Header struct {
	Algorithm string `json:"alg"`
	// KeyID is empty in legacy tokens of old versions of Kubernetes.
	KeyID string `json:"kid,omitempty"`
	// Type is "JWT" or empty.
	Type string `json:"typ,omitempty"`
}

// parts are the decoded parts of a token, not yet parsed.
type parts struct {
	header, payload, signature []byte
	// signed is the text that the signature covers.
	signed string
}

// ParseUnverified reads a token without verifying it. Use the result to look things up, never to grant access.
func ParseUnverified(token string) (Header, Claims, error) {
	p, err := split(token)
	if err != nil {
		return Header{}, Claims{}, err
	}
	return p.parse()
}

func (p parts) parse() (Header, Claims, error) {
	h, err := parseHeader(p.header)
	if err != nil {
		return Header{}, Claims{}, err
	}
	if _, known := algorithmNamed(h.Algorithm); !known {
		return Header{}, Claims{}, UnsupportedAlgorithm
	}
	c, err := parseClaims(p.payload)
	if err != nil {
		return Header{}, Claims{}, err
	}
	return h, c, nil
}

// KeyID returns the kid in the header of a token, and reads nothing else of it. If the token has none, the kid is empty
// and the error nil.
func KeyID(token string) (string, error) {
	header, rest, _ := strings.Cut(token, ".")
	if len(token) > MaxSize || strings.Count(rest, ".") != 1 {
		return "", malformed("not three parts, or too long")
	}
	raw, err := decodePart(header)
	if err != nil {
		return "", err
	}
	h, err := parseHeader(raw)
	return h.KeyID, err
}

// split decodes the compact form of RFC 7515, section 7.1.
func split(token string) (parts, error) {
	if len(token) > MaxSize {
		return parts{}, malformed("too long")
	}
	encoded := strings.Split(token, ".")
	if len(encoded) != 3 {
		return parts{}, malformed("not three parts")
	}
	var decoded [3][]byte
	for i, part := range encoded {
		var err error
		if decoded[i], err = decodePart(part); err != nil {
			return parts{}, err
		}
	}
	return parts{
		header: decoded[0], payload: decoded[1], signature: decoded[2],
		signed: token[:len(encoded[0])+1+len(encoded[1])],
	}, nil
}

// decodePart decodes base64url without padding. It refuses line breaks, which encoding/base64 skips.
func decodePart(part string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil || len(raw) == 0 || strings.ContainsAny(part, "\r\n") {
		return nil, malformed("a part is empty or not base64url without padding")
	}
	return raw, nil
}

func parseHeader(raw []byte) (Header, error) {
	m, err := strictjson.Members(raw)
	if err != nil {
		return Header{}, malformed("header is " + err.Error())
	}
	r := &reader{members: m}
	h := Header{Algorithm: r.text("alg"), KeyID: r.text("kid"), Type: r.text("typ")}
	for name := range m {
		if name != "alg" && name != "kid" && name != "typ" {
			return Header{}, malformed("header has a member other than alg, kid and typ")
		}
	}
	switch {
	case r.err != nil:
		return Header{}, r.err
	case h.Algorithm == "":
		return Header{}, malformed("header has no alg")
	case h.Type != "" && h.Type != "JWT":
		return Header{}, malformed("its typ is not JWT")
	case len(h.KeyID) > jwks.MaxKeyID:
		return Header{}, malformed("its kid is too long")
	}
	return h, nil
}

func parseClaims(raw []byte) (Claims, error) {
	m, err := strictjson.Members(raw)
	if err != nil {
		return Claims{}, malformed("payload is " + err.Error())
	}
	r := &reader{members: m}
	c := Claims{
		Issuer:     r.text("iss"),
		Subject:    r.text("sub"),
		Audience:   r.texts("aud"),
		Expiry:     r.date("exp"),
		NotBefore:  r.date("nbf"),
		IssuedAt:   r.date("iat"),
		ID:         r.text("jti"),
		Kubernetes: r.kubernetes(),
		Legacy:     r.legacy(),
	}
	if r.err != nil {
		return Claims{}, r.err
	}
	return c, nil
}

func (r *reader) kubernetes() *Kubernetes {
	k := r.object("kubernetes.io")
	if k == nil {
		return nil
	}
	claim := &Kubernetes{
		Namespace: k.text("namespace"),
		Node:      k.ref("node"),
		Pod:       k.ref("pod"),
		Secret:    k.ref("secret"),
		WarnAfter: k.date("warnafter"),
	}
	if account := k.ref("serviceaccount"); account != nil {
		claim.ServiceAccount = *account
	}
	r.err = k.err
	return claim
}

func (r *reader) ref(name string) *Ref {
	o := r.object(name)
	if o == nil {
		return nil
	}
	ref := &Ref{Name: o.text("name"), UID: o.text("uid")}
	r.err = o.err
	return ref
}

func (r *reader) legacy() *Legacy {
	const prefix = "kubernetes.io/serviceaccount/"
	l := Legacy{
		Namespace:          r.text(prefix + "namespace"),
		SecretName:         r.text(prefix + "secret.name"),
		ServiceAccountName: r.text(prefix + "service-account.name"),
		ServiceAccountUID:  r.text(prefix + "service-account.uid"),
	}
	if l == (Legacy{}) {
		return nil
	}
	return &l
}
