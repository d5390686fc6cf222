package jwks

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// wireKey is one JSON Web Key (RFC 7517), with its members in the order in which kube-apiserver writes them.
type wireKey struct {
	Use       string `json:"use"`
	Type      string `json:"kty"`
	KeyID     string `json:"kid"`
	Curve     string `json:"crv,omitempty"`
	Algorithm string `json:"alg"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
}

func encode(k Key) (wireKey, error) {
	wire := wireKey{Use: "sig", KeyID: k.KeyID, Algorithm: k.Algorithm}
	switch public := k.Public.(type) {
	case *rsa.PublicKey:
		wire.Type = "RSA"
		wire.N = encodeBytes(public.N.Bytes())
		wire.E = encodeBytes(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return wireKey{}, fmt.Errorf("%w: point is not on its curve", Malformed)
		}
		size := len(point) / 2 // the first byte marks the point as not compressed
		wire.Type, wire.Curve = "EC", public.Params().Name
		wire.X, wire.Y = encodeBytes(point[1:1+size]), encodeBytes(point[1+size:])
	}
	return wire, nil
}

// decode reads one member of "keys". Its errors never quote a member, which could be a private key.
func decode(raw json.RawMessage) (Key, error) {
	m, err := strictjson.Members(raw)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", Malformed, err)
	}
	if err := refusePrivate(m); err != nil {
		return Key{}, err
	}
	r := &reader{members: m}
	use, kty := r.text("use"), r.text("kty")
	k := Key{KeyID: r.text("kid"), Algorithm: r.text("alg")}
	if r.err != nil {
		return Key{}, r.err
	}
	if use != "sig" {
		return Key{}, fmt.Errorf("%w: its use is not sig", UnsupportedKey)
	}
	k.Public, err = r.public(kty)
	if err != nil {
		return Key{}, err
	}
	return k, k.check()
}

// refusePrivate finds members that only private and symmetric keys have (RFC 7518, section 6).
func refusePrivate(m map[string]json.RawMessage) error {
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, has := m[name]; has {
			return fmt.Errorf("%w: has member %s", PrivateKey, name)
		}
	}
	return nil
}

// reader reads members and keeps the first error.
type reader struct {
	members map[string]json.RawMessage
	err     error
}

func (r *reader) text(name string) string {
	s, ok := strictjson.Text(r.members[name])
	if !ok {
		r.fail("member %s is missing or not a string", name)
	}
	return s
}

func (r *reader) fail(format string, name string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, Malformed, name)
	}
}

// bytes reads base64url without padding. It refuses line breaks, which encoding/base64 skips.
func (r *reader) bytes(name string) []byte {
	s := r.text(name)
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 || strings.ContainsAny(s, "\r\n") {
		r.fail("member %s is not base64url without padding", name)
	}
	return b
}

func (r *reader) public(kty string) (crypto.PublicKey, error) {
	switch kty {
	case "RSA":
		return r.rsa()
	case "EC":
		return r.ec()
	}
	return nil, fmt.Errorf("%w: its kty is neither RSA nor EC", UnsupportedKey)
}

func (r *reader) rsa() (crypto.PublicKey, error) {
	n, e := r.bytes("n"), r.bytes("e")
	if r.err != nil {
		return nil, r.err
	}
	if n[0] == 0 || e[0] == 0 {
		return nil, fmt.Errorf("%w: modulus or exponent starts with a zero byte", Malformed)
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 31 {
		return nil, fmt.Errorf("%w: RSA exponent is above %d", UnsupportedKey, math.MaxInt32)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

func (r *reader) ec() (crypto.PublicKey, error) {
	name, x, y := r.text("crv"), r.bytes("x"), r.bytes("y")
	if r.err != nil {
		return nil, r.err
	}
	var curve elliptic.Curve
	switch name {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	default:
		return nil, fmt.Errorf("%w: its crv is neither P-256 nor P-384", UnsupportedKey)
	}
	if size := (curve.Params().BitSize + 7) / 8; len(x) != size || len(y) != size {
		return nil, fmt.Errorf("%w: a coordinate is not %d bytes long", Malformed, size)
	}
	const uncompressed = 4
	public, err := ecdsa.ParseUncompressedPublicKey(curve, bytes.Join([][]byte{{uncompressed}, x, y}, nil))
	if err != nil {
		return nil, fmt.Errorf("%w: point is not on its curve", Malformed)
	}
	return public, nil
}

func encodeBytes(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
