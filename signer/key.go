package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // links the hash in
	_ "crypto/sha512" // links the hash in
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

// key is one key of the set. It is immutable, except for served.
type key struct {
	jwks.Key
	version  int
	excluded bool
	// signer is nil if the key only verifies.
	signer crypto.Signer
	// header is the JWT header, encoded.
	header string
	hash   crypto.Hash
	// size is the length of r and of s of its ECDSA signatures; 0 for RSA.
	size   int
	served *servedAt
}

// servedAt is when the API server first got a key, by the boot clock; nil if it has not. Sets with the same key share
// it.
type servedAt struct{ atomic.Pointer[time.Duration] }

// note records that the API server got the key now. It reports whether this is the first time.
func (s *servedAt) note(now time.Duration) bool {
	return s.Load() == nil && s.CompareAndSwap(nil, &now)
}

// newKey opens a key without using it. The caller sets served.
func newKey(k keydir.Key, from backends) (*key, error) {
	public, err := jwks.NewKey(k.Public)
	if err != nil {
		return nil, err
	}
	header, err := encodeHeader(public)
	if err != nil {
		return nil, err
	}
	made := &key{
		Key: public, version: k.Version, excluded: k.ExcludeFromOIDCDiscovery, header: header, hash: crypto.SHA256,
	}
	switch public.Algorithm {
	case jwks.ES256:
		made.size = 32
	case jwks.ES384:
		made.hash, made.size = crypto.SHA384, 48
	}
	if k.CanSign() {
		made.signer, err = from.open(k)
	}
	return made, err
}

// encodeHeader writes the header in kube-apiserver's order. kube-apiserver allows no other members (validateJWTHeader
// in plugin.go).
func encodeHeader(k jwks.Key) (string, error) {
	raw, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}{k.Algorithm, k.KeyID, "JWT"})
	if err != nil {
		return "", fmt.Errorf("encoding token header: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// message returns the key as FetchKeys returns it.
func (k *key) message() (*externaljwt.Key, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	return &externaljwt.Key{KeyId: k.KeyID, Key: der, ExcludeFromOidcDiscovery: k.excluded}, nil
}

// maySign reports whether the API server has had the key for the lead-in. It reads the boot clock only if it must, as
// that takes as long as other parts of Sign.
func (k *key) maySign(clock func() time.Duration, leadIn time.Duration) bool {
	at := k.served.Load()
	return at != nil && (leadIn == 0 || clock()-*at >= leadIn)
}

// sign returns the signature, in base64url, of a JWT with these encoded claims.
func (k *key) sign(claims string) (string, error) {
	message := make([]byte, 0, len(k.header)+1+len(claims))
	message = append(message, k.header...)
	message = append(message, '.')
	message = append(message, claims...)
	raw, err := k.signer.Sign(rand.Reader, k.digest(message), k.hash)
	if err != nil {
		return "", err
	}
	if k.size > 0 {
		if raw, err = fixedSize(raw, k.size); err != nil {
			return "", err
		}
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

func (k *key) digest(message []byte) []byte {
	h := k.hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// fixedSize converts an ECDSA signature from ASN.1 to the form of RFC 7518, section 3.4: r followed by s.
func fixedSize(der []byte, size int) ([]byte, error) {
	input := cryptobyte.String(der)
	var sequence cryptobyte.String
	var r, s []byte
	if !input.ReadASN1(&sequence, asn1.SEQUENCE) || !input.Empty() || !sequence.ReadASN1Integer(&r) ||
		!sequence.ReadASN1Integer(&s) || !sequence.Empty() || !fits(r, size) || !fits(s, size) {
		return nil, errors.New("the key's signature is not an ECDSA signature on its curve")
	}
	out := make([]byte, 2*size)
	copy(out[size-len(r):], r)
	copy(out[2*size-len(s):], s)
	return out, nil
}

// fits reports whether a number in its shortest encoding is positive and of at most size bytes.
func fits(n []byte, size int) bool { return len(n) <= size && n[0] != 0 }

// proof begins what prove signs. It has no period, so it can never be mistaken for a token.
const proof = "keyturn-signer proves that this key signs: "

// prove signs a text that is no token and verifies the signature. It returns ErrOtherKey if that does not verify.
func (k *key) prove() error {
	digest := k.digest([]byte(proof + rand.Text()))
	signature, err := k.signer.Sign(rand.Reader, digest, k.hash)
	if err != nil {
		return err
	}
	good := false
	switch public := k.Public.(type) {
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(public, k.hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(public, digest, signature)
	}
	if !good {
		return backend.ErrOtherKey
	}
	return nil
}
