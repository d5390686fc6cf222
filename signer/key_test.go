package signer

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"math/big"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/jwks"
)

// TestHardwareThatFailsSignsNothing: an error of the key must not become a token with an empty signature.
func TestHardwareThatFailsSignsNothing(t *testing.T) {
	for _, algorithm := range []string{jwks.RS256, jwks.ES256, jwks.ES384} {
		w := newWorld(t, algorithm)
		w.write(1, 1)
		w.start()
		w.fetch()
		w.hardware.set(errHardware, nil)
		r, err := w.client.Sign(t.Context(),
			&externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, %v, want Unavailable", algorithm, r, err)
		}
	}
}

// TestFixedSize has what an ECDSA key might return, for a curve whose numbers have 4 bytes.
func TestFixedSize(t *testing.T) {
	number := func(b ...byte) *big.Int { return new(big.Int).SetBytes(b) }
	encode := func(r, s *big.Int) []byte {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	one, largest := number(1), number(0xff, 0xff, 0xff, 0xff)
	zero, negative, long := number(), big.NewInt(-1), number(1, 0, 0, 0, 0)
	for name, test := range map[string]struct {
		der  []byte
		want []byte
	}{
		"small and large": {encode(one, largest), []byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}},
		"large and small": {encode(largest, one), []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}},
		"r is 0":          {encode(zero, one), nil},
		"s is 0":          {encode(one, zero), nil},
		"r is negative":   {encode(negative, one), nil},
		"s is negative":   {encode(one, negative), nil},
		"r is too long":   {encode(long, one), nil},
		"s is too long":   {encode(one, long), nil},
		"more follows":    {append(encode(one, one), 0), nil},
		"half":            {encode(one, one)[:4], nil},
		"nothing":         {nil, nil},
		"fixed already":   {[]byte{0, 0, 0, 1, 0, 0, 0, 1}, nil},
	} {
		got, err := fixedSize(test.der, 4)
		if !bytes.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: %x, %v, want %x", name, got, err, test.want)
		}
	}
}

// broken is a key that returns what is no signature.
type broken struct{ crypto.Signer }

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return []byte("broken"), nil
}

func TestBrokenKey(t *testing.T) {
	for _, algorithm := range []string{jwks.RS256, jwks.ES256} {
		w := newWorld(t, algorithm)
		w.write(1, 1)
		w.start()
		k := w.signer.set.Load().candidates[0]
		k.signer = broken{k.signer}
		if err := k.prove(); err == nil {
			t.Errorf("%s: proven", algorithm)
		}
	}
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	k := w.signer.set.Load().candidates[0]
	k.signer = broken{k.signer}
	w.wantSigner(0, "what the key returns is no ECDSA signature")
}
