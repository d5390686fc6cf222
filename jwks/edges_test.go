package jwks_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
)

func p521(t *testing.T) crypto.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// rsaOf is an RSA key with an odd modulus of this length. Nobody has its private key.
func rsaOf(bits, exponent int) *rsa.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), bits-1, 1), E: exponent}
}

func pemOf(t *testing.T, kind string, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestBoundsOfRSA(t *testing.T) {
	tests := []struct {
		key  *rsa.PublicKey
		want error
	}{
		{rsaOf(jwks.MinRSABits-1, 65537), jwks.WeakKey},
		{rsaOf(jwks.MinRSABits, 65537), nil},
		{rsaOf(jwks.MaxRSABits, 65537), nil},
		{rsaOf(jwks.MaxRSABits+1, 65537), jwks.UnsupportedKey},
		{rsaOf(jwks.MinRSABits, 1), jwks.WeakKey},
		{rsaOf(jwks.MinRSABits, 2), jwks.WeakKey},
		{rsaOf(jwks.MinRSABits, 3), nil},
	}
	for _, test := range tests {
		if _, err := jwks.Algorithm(test.key); !errors.Is(err, test.want) {
			t.Errorf("RSA of %d bits with exponent %d: %v, want %v", test.key.N.BitLen(), test.key.E, err, test.want)
		}
	}
}

func TestBoundsOfKeyID(t *testing.T) {
	k := key(t, "p256-1")
	for length, want := range map[int]error{
		0: jwks.Malformed, 1: nil, jwks.MaxKeyID: nil, jwks.MaxKeyID + 1: jwks.Malformed,
	} {
		k.KeyID = strings.Repeat("k", length)
		if _, err := jwks.NewSet(k); !errors.Is(err, want) {
			t.Errorf("kid of %d bytes: %v, want %v", length, err, want)
		}
	}
}

func TestLookupFindsEach(t *testing.T) {
	s := set(t, "rsa-1", "p256-1", "p384-1")
	for _, want := range s.Keys() {
		if got, ok := s.Lookup(want.KeyID); !ok || got.KeyID != want.KeyID {
			t.Errorf("Lookup(%s) = %s, %t", want.KeyID, got.KeyID, ok)
		}
	}
}

// A document of MaxSize is read, and none that is longer.
func TestMaxSize(t *testing.T) {
	const discovery = `{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys",` +
		`"response_types_supported":[],"subject_types_supported":[],"id_token_signing_alg_values_supported":[]`
	for more, want := range map[int]error{0: nil, 1: jwks.Malformed} {
		if _, err := jwks.Parse(fill(`{"keys":[]`, jwks.MaxSize+more)); !errors.Is(err, want) {
			t.Errorf("key set of %d bytes above MaxSize: %v, want %v", more, err, want)
		}
		if _, err := jwks.ParseDiscovery(fill(discovery, jwks.MaxSize+more)); !errors.Is(err, want) {
			t.Errorf("discovery document of %d bytes above MaxSize: %v, want %v", more, err, want)
		}
	}
}

// fill ends an object after so much white space that it has a size.
func fill(object string, size int) []byte {
	return []byte(object + strings.Repeat(" ", size-len(object)-1) + "}")
}

func TestPublicKeyPEMRefuses(t *testing.T) {
	weak := rsaOf(jwks.MinRSABits-1, 65537)
	for want, public := range map[jwks.Failure]crypto.PublicKey{jwks.UnsupportedKey: p521(t), jwks.WeakKey: weak} {
		if _, err := jwks.MarshalPublicKey(public); !errors.Is(err, want) {
			t.Errorf("MarshalPublicKey(%T): %v, want %v", public, err, want)
		}
		if got, err := jwks.ParsePublicKey(pemOf(t, "PUBLIC KEY", public)); !errors.Is(err, want) || got != nil {
			t.Errorf("ParsePublicKey(%T): %v, want %v", public, err, want)
		}
	}
	other := pemOf(t, "RSA PUBLIC KEY", key(t, "rsa-1").Public)
	if got, err := jwks.ParsePublicKey(other); !errors.Is(err, jwks.Malformed) || got != nil {
		t.Errorf("PKIX form in a block of another type: %v, want %v", err, jwks.Malformed)
	}
}

// A key without a point on its curve is never taken, nor written.
func TestPointNotOnCurve(t *testing.T) {
	one := big.NewInt(1)
	bad := &ecdsa.PublicKey{Curve: elliptic.P256(), X: one, Y: one} //nolint:staticcheck // no other way makes one
	if _, err := jwks.NewKey(bad); !errors.Is(err, jwks.Malformed) {
		t.Errorf("NewKey: %v, want %v", err, jwks.Malformed)
	}
	if _, err := jwks.MarshalPublicKey(bad); !errors.Is(err, jwks.Malformed) {
		t.Errorf("MarshalPublicKey: %v, want %v", err, jwks.Malformed)
	}
	if _, err := jwks.NewSet(jwks.Key{KeyID: "k", Algorithm: jwks.ES256, Public: bad}); !errors.Is(err, jwks.Malformed) {
		t.Errorf("NewSet: %v, want %v", err, jwks.Malformed)
	}
}

// Each error names its class and the first thing that is wrong.
func TestErrorsName(t *testing.T) {
	const notObject = "malformed: not a JSON object with unique member names"
	sets := map[string]string{
		"[]":         "reading key set: " + notObject,
		`{"keys":5}`: "reading key set: malformed: member keys is not an array",
	}
	for document, want := range sets {
		if _, err := jwks.Parse([]byte(document)); err == nil || err.Error() != want {
			t.Errorf("Parse(%s): %v, want %s", document, err, want)
		}
	}
	keys := map[string]string{
		`{"keys":[5]}`:                            notObject,
		`{"keys":[{}]}`:                           "malformed: member use is missing or not a string",
		changed(t, "RSA", `"RSA"`, `"oct"`):       "unsupported key: its kty is neither RSA nor EC",
		changed(t, "RSA", "AQAB", "AAEAAQ"):       "malformed: modulus or exponent starts with a zero byte",
		changed(t, "RSA", "AQAB", "gAAAAQ"):       "unsupported key: RSA exponent is above 2147483647",
		changed(t, "RSA", "RS256", "ES256"):       "unsupported key: its algorithm must be RS256",
		changed(t, "P-256", "P-256", "P-521"):     "unsupported key: its crv is neither P-256 nor P-384",
		changed(t, "P-256", `"x":"`, `"x":"AAAA`): "malformed: a coordinate is not 32 bytes long",
		changed(t, "P-256", `"y":"`, `"y":"AAAA`): "malformed: a coordinate is not 32 bytes long",
	}
	for document, want := range keys {
		want = "reading key 0 of the set: " + want
		if _, err := jwks.Parse([]byte(document)); err == nil || err.Error() != want {
			t.Errorf("Parse(%s): %v, want %s", document, err, want)
		}
	}
	discovery := map[string]string{
		"[]": notObject,
		"{}": "malformed: member issuer is missing or not a string",
	}
	for document, want := range discovery {
		want = "reading discovery document: " + want
		if _, err := jwks.ParseDiscovery([]byte(document)); err == nil || err.Error() != want {
			t.Errorf("ParseDiscovery(%s): %v, want %s", document, err, want)
		}
	}
}

// The largest exponent that fits into 31 bits is read.
func TestLargestExponent(t *testing.T) {
	s, err := jwks.Parse([]byte(changed(t, "RSA", "AQAB", "f____w")))
	if err != nil {
		t.Fatal(err)
	}
	if public, ok := s.Keys()[0].Public.(*rsa.PublicKey); !ok || public.E != 1<<31-1 {
		t.Errorf("exponent = %v", s.Keys()[0].Public)
	}
}

// changed is a key set of the vectors in which a text is replaced.
func changed(t *testing.T, name, from, to string) string {
	t.Helper()
	for _, v := range vectors.Sets() {
		if v.Name == name && strings.Contains(v.Document, from) {
			return strings.Replace(v.Document, from, to, 1)
		}
	}
	t.Fatalf("no key set %s with %s in the vectors", name, from)
	return ""
}
