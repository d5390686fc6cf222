package jwks_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/test/vectors"
)

func key(t testing.TB, name string) jwks.Key {
	t.Helper()
	for _, v := range vectors.Keys() {
		if v.Name == name {
			public, err := jwks.ParsePublicKey([]byte(v.Public))
			if err != nil {
				t.Fatal(err)
			}
			k, err := jwks.NewKey(public)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
	}
	t.Fatalf("no key %s in the vectors", name)
	return jwks.Key{}
}

func set(t testing.TB, names ...string) jwks.Set {
	t.Helper()
	var keys []jwks.Key
	for _, name := range names {
		keys = append(keys, key(t, name))
	}
	s, err := jwks.NewSet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func kids(s jwks.Set) []string {
	var all []string
	for _, k := range s.Keys() {
		all = append(all, k.KeyID)
	}
	return all
}

func TestSetVectors(t *testing.T) {
	for _, v := range vectors.Sets() {
		t.Run(v.Name, func(t *testing.T) {
			s, err := jwks.Parse([]byte(v.Document))
			checkFailure(t, v, err)
			if !slices.Equal(kids(s), v.KeyIDs) {
				t.Errorf("kids = %q, want %q", kids(s), v.KeyIDs)
			}
		})
	}
}

func TestDiscoveryVectors(t *testing.T) {
	for _, v := range vectors.Discoveries() {
		t.Run(v.Name, func(t *testing.T) {
			_, err := jwks.ParseDiscovery([]byte(v.Document))
			checkFailure(t, v, err)
		})
	}
}

func checkFailure(t *testing.T, v vectors.Document, err error) {
	t.Helper()
	failure, _ := errors.AsType[jwks.Failure](err)
	if string(failure) != v.Failure || (err == nil) != (v.Failure == "") {
		t.Errorf("%v, want failure %q", err, v.Failure)
	}
}

func TestNewKey(t *testing.T) {
	for _, v := range vectors.Keys() {
		if k := key(t, v.Name); k.KeyID != v.KeyID || k.Algorithm != v.Algorithm {
			t.Errorf("%s: kid %s, algorithm %s, want %s and %s", v.Name, k.KeyID, k.Algorithm, v.KeyID, v.Algorithm)
		}
	}
}

func TestNewKeyRefuses(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2046, 1), E: 65537}
	strong := key(t, "rsa-1").Public.(*rsa.PublicKey)
	tests := map[string]struct {
		public crypto.PublicKey
		want   jwks.Failure
	}{
		"nothing":     {nil, jwks.UnsupportedKey},
		"Ed25519":     {make(ed25519.PublicKey, ed25519.PublicKeySize), jwks.UnsupportedKey},
		"P-521":       {p521.Public(), jwks.UnsupportedKey},
		"RSA, 2047":   {weak, jwks.WeakKey},
		"private key": {p521, jwks.UnsupportedKey},
		// Keys that no parser made.
		"nil RSA":    {(*rsa.PublicKey)(nil), jwks.Malformed},
		"no modulus": {&rsa.PublicKey{E: 65537}, jwks.Malformed},
		"negative":   {&rsa.PublicKey{N: new(big.Int).Neg(strong.N), E: strong.E}, jwks.Malformed},
		"nil ECDSA":  {(*ecdsa.PublicKey)(nil), jwks.Malformed},
		"no curve": {
			&ecdsa.PublicKey{X: big.NewInt(1), Y: big.NewInt(1)}, //nolint:staticcheck // made by hand
			jwks.Malformed,
		},
		"no X": {
			&ecdsa.PublicKey{Curve: elliptic.P256(), Y: big.NewInt(1)}, //nolint:staticcheck // made by hand
			jwks.Malformed,
		},
		"no Y": {
			&ecdsa.PublicKey{Curve: elliptic.P384(), X: big.NewInt(1)}, //nolint:staticcheck // made by hand
			jwks.Malformed,
		},
		"off the curve": {
			&ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}, //nolint:staticcheck // made by hand
			jwks.Malformed,
		},
		"infinity": {
			&ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)}, //nolint:staticcheck // made by hand
			jwks.Malformed,
		},
	}
	for name, test := range tests {
		if _, err := jwks.NewKey(test.public); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if test.want == jwks.Malformed {
			if _, err := jwks.KeyID(test.public); err == nil && name != "negative" {
				t.Errorf("%s has a kid", name)
			}
			if _, err := jwks.NewSet(jwks.Key{
				KeyID: "k", Algorithm: jwks.ES256, Public: test.public,
			}); !errors.Is(err, test.want) {
				t.Errorf("a set of %s: %v, want %v", name, err, test.want)
			}
		}
	}
	if _, err := jwks.KeyID("no key"); !errors.Is(err, jwks.UnsupportedKey) {
		t.Errorf("KeyID of a string: %v, want %v", err, jwks.UnsupportedKey)
	}
}

func TestNewSetRefuses(t *testing.T) {
	good := key(t, "p256-1")
	with := func(change func(*jwks.Key)) jwks.Key {
		k := good
		change(&k)
		return k
	}
	tests := map[string]struct {
		keys []jwks.Key
		want jwks.Failure
	}{
		"one key twice": {[]jwks.Key{good, good}, jwks.DuplicateKeyID},
		"one kid twice": {
			[]jwks.Key{good, with(func(k *jwks.Key) { k.Public = key(t, "p256-2").Public })}, jwks.DuplicateKeyID,
		},
		"no kid":            {[]jwks.Key{with(func(k *jwks.Key) { k.KeyID = "" })}, jwks.Malformed},
		"another algorithm": {[]jwks.Key{with(func(k *jwks.Key) { k.Algorithm = "RS256" })}, jwks.UnsupportedKey},
		"zero":              {[]jwks.Key{{KeyID: "k"}}, jwks.UnsupportedKey},
	}
	for name, test := range tests {
		if _, err := jwks.NewSet(test.keys...); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// What a verifier cannot use it leaves out; the rest it takes (RFC 7517, section 5).
func TestParseUsable(t *testing.T) {
	good := func(names ...string) []string {
		document, err := set(t, names...).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var wire struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(document, &wire); err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, k := range wire.Keys {
			all = append(all, string(k))
		}
		return all
	}
	edit := func(k, from, to string) string {
		changed := strings.Replace(k, from, to, 1)
		if changed == k {
			t.Fatalf("there is no %s in %s", from, k)
		}
		return changed
	}
	one, kid := good("p256-1")[0], key(t, "p256-1").KeyID
	for name, other := range map[string]string{
		"kid empty":   edit(one, `"`+kid+`"`, `""`),
		"kid again":   one,
		"stolen kid":  edit(good("p256-2")[0], key(t, "p256-2").KeyID, kid),
		"no use":      edit(one, `"use":"sig",`, ``),
		"encryption":  edit(one, `"sig"`, `"enc"`),
		"OKP":         `{"kty":"OKP","kid":"x","use":"sig","alg":"EdDSA","crv":"Ed25519","x":"AAAA"}`,
		"symmetric":   `{"kty":"oct","kid":"x","use":"sig","alg":"HS256","k":"AAAA"}`,
		"no object":   `5`,
		"private key": edit(one, `"use":`, `"d":"AAAA","use":`),
	} {
		t.Run(name, func(t *testing.T) {
			document := []byte(`{"keys":[` + one + `,` + other + `,` + good("rsa-1")[0] + `]}`)
			got, others, err := jwks.ParseUsable(document)
			if err != nil || others != 1 {
				t.Errorf("%d others (%v), want 1", others, err)
			}
			if want := kids(set(t, "p256-1", "rsa-1")); !slices.Equal(kids(got), want) {
				t.Errorf("keys %v, want %v", kids(got), want)
			}
			if found, _ := got.Lookup(kid); !key(t, "p256-1").Public.(*ecdsa.PublicKey).Equal(found.Public) {
				t.Error("the first key of the kid was replaced")
			}
		})
	}
	for _, document := range []string{``, `{}`, `[]`, `{"keys":{}}`, `{"keys":[]}{}`} {
		if _, _, err := jwks.ParseUsable([]byte(document)); !errors.Is(err, jwks.Malformed) {
			t.Errorf("%q: %v, want %v", document, err, jwks.Malformed)
		}
	}
}

// A set does not change with the slices that it was made of and that it gave away.
func TestSetIsImmutable(t *testing.T) {
	keys := []jwks.Key{key(t, "rsa-1"), key(t, "p256-1")}
	s, err := jwks.NewSet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	want := kids(s)
	keys[0], s.Keys()[1] = jwks.Key{}, jwks.Key{}
	if got := kids(s); !slices.Equal(got, want) || s.Len() != 2 {
		t.Errorf("kids = %q, want %q", got, want)
	}
}

func TestLookup(t *testing.T) {
	s, want := set(t, "rsa-1", "p256-1"), key(t, "p256-1")
	if k, ok := s.Lookup(want.KeyID); !ok || k.Algorithm != "ES256" {
		t.Errorf("Lookup = %v, %t", k, ok)
	}
	for _, kid := range []string{"", "nobody", key(t, "rsa-2").KeyID} {
		if k, ok := s.Lookup(kid); ok {
			t.Errorf("Lookup(%q) = %v", kid, k)
		}
	}
}

// The JSON is what go-jose, and so kube-apiserver, writes; go-jose reads it back.
func TestMarshalLikeJOSE(t *testing.T) {
	s := set(t, "rsa-1", "p256-1", "p384-1", "rsa-2")
	var want jose.JSONWebKeySet
	for _, k := range s.Keys() {
		want.Keys = append(want.Keys, jose.JSONWebKey{Key: k.Public, KeyID: k.KeyID, Algorithm: k.Algorithm, Use: "sig"})
	}
	wantJSON, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, wantJSON) {
		t.Errorf("Marshal = %s\nwant      %s", got, wantJSON)
	}
	var read jose.JSONWebKeySet
	if err := json.Unmarshal(got, &read); err != nil || len(read.Keys) != 4 || !read.Keys[3].Valid() {
		t.Errorf("go-jose reads %d keys: %v", len(read.Keys), err)
	}
}

func TestMarshalEmpty(t *testing.T) {
	if got, err := (jwks.Set{}).Marshal(); err != nil || string(got) != `{"keys":[]}` {
		t.Errorf("Marshal = %s, %v", got, err)
	}
}

// Key sets and discovery documents of real API servers are read and written again to the byte.
func TestKubernetes(t *testing.T) {
	for _, r := range vectors.Recordings() {
		s, err := jwks.Parse([]byte(r.JWKS))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Marshal(); err != nil || string(got) != r.JWKS {
			t.Errorf("key set = %s (%v)\nwant      %s", got, err, r.JWKS)
		}
		for _, k := range s.Keys() {
			if kid, err := jwks.KeyID(k.Public); err != nil || kid != k.KeyID {
				t.Errorf("KeyID = %s, %v, want kube-apiserver's %s", kid, err, k.KeyID)
			}
		}
		checkDiscovery(t, r, s)
	}
}

func checkDiscovery(t *testing.T, r vectors.Recording, s jwks.Set) {
	t.Helper()
	read, err := jwks.ParseDiscovery([]byte(r.Discovery))
	if err != nil {
		t.Fatal(err)
	}
	made, err := jwks.NewDiscovery(r.Issuer, read.JWKSURI, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []jwks.Discovery{read, made} {
		if got, err := d.Marshal(); err != nil || string(got) != r.Discovery {
			t.Errorf("discovery document = %s (%v)\nwant %s", got, err, r.Discovery)
		}
	}
}

func TestNewDiscoveryRefuses(t *testing.T) {
	const good = "https://issuer.example"
	for _, urls := range [][2]string{
		{"", good}, {good, ""}, {"http://issuer.example", good}, {good, "http://issuer.example"}, {good + "?a", good},
		{good + "#a", good}, {"https://%zz", good},
	} {
		if _, err := jwks.NewDiscovery(urls[0], urls[1], jwks.Set{}); !errors.Is(err, jwks.Malformed) {
			t.Errorf("%q: %v, want %v", urls, err, jwks.Malformed)
		}
	}
}

func TestPublicKeyPEM(t *testing.T) {
	for _, v := range vectors.Keys() {
		got, err := jwks.MarshalPublicKey(key(t, v.Name).Public)
		if err != nil || string(got) != v.Public {
			t.Errorf("%s = %s (%v)\nwant %s", v.Name, got, err, v.Public)
		}
	}
	if _, err := jwks.MarshalPublicKey(nil); !errors.Is(err, jwks.UnsupportedKey) {
		t.Errorf("no key: %v", err)
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	v := vectors.Keys()[0]
	block := func(kind string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("secret")}))
	}
	tests := map[string]struct {
		data string
		want jwks.Failure
	}{
		"nothing":      {"", jwks.Malformed},
		"no PEM":       {"secret", jwks.Malformed},
		"garbage":      {block("PUBLIC KEY"), jwks.Malformed},
		"certificate":  {block("CERTIFICATE"), jwks.Malformed},
		"two keys":     {v.Public + v.Public, jwks.Malformed},
		"text behind":  {v.Public + "secret", jwks.Malformed},
		"private":      {v.Private, jwks.PrivateKey},
		"private, RSA": {block("RSA PRIVATE KEY"), jwks.PrivateKey},
	}
	for name, test := range tests {
		public, err := jwks.ParsePublicKey([]byte(test.data))
		if !errors.Is(err, test.want) || public != nil {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error quotes the file: %v", name, err)
		}
	}
}

// JSON cannot hold this vector.
func TestNotUTF8(t *testing.T) {
	if _, err := jwks.Parse([]byte("{\"keys\":[],\"\xff\":1}")); !errors.Is(err, jwks.Malformed) {
		t.Errorf("%v, want %v", err, jwks.Malformed)
	}
}

func TestTooLong(t *testing.T) {
	long := []byte(`{"keys":[]` + strings.Repeat(" ", jwks.MaxSize) + "}")
	if _, err := jwks.Parse(long); !errors.Is(err, jwks.Malformed) {
		t.Errorf("key set: %v", err)
	}
	if _, err := jwks.ParseDiscovery(long); !errors.Is(err, jwks.Malformed) {
		t.Errorf("discovery document: %v", err)
	}
}
