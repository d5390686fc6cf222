package token

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/keyturn/keyturn/jwks"
)

// Signer signs tokens with one key. It is safe for concurrent use if its key is, as those of GenerateKey are.
type Signer struct {
	key       crypto.Signer
	algorithm algorithm
	// header is the encoded header, with the period that follows it.
	header []byte
}

// NewSigner returns a signer whose tokens carry this kid. The algorithm must be the one that jwks.Algorithm returns for
// the key. The key may be any crypto.Signer, such as a key in hardware.
func NewSigner(key crypto.Signer, alg, kid string) (*Signer, error) {
	fits, err := jwks.Algorithm(key.Public())
	if err != nil {
		return nil, fmt.Errorf("making token signer: %w", err)
	}
	if alg != fits {
		return nil, fmt.Errorf("making token signer: a key for %s cannot sign as %q", fits, alg)
	}
	if kid == "" || len(kid) > jwks.MaxKeyID {
		return nil, fmt.Errorf("making token signer: kid is empty or longer than %d bytes", jwks.MaxKeyID)
	}
	header, err := encodeHeader(Header{Algorithm: alg, KeyID: kid})
	if err != nil {
		return nil, err
	}
	a, _ := algorithmNamed(alg)
	return &Signer{key: key, algorithm: a, header: header}, nil
}

func encodeHeader(h Header) ([]byte, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding token header: %w", err)
	}
	return append(base64.RawURLEncoding.AppendEncode(nil, raw), '.'), nil
}

// Sign returns a token with these claims: Claims, or anything that encoding/json encodes as an object. Pass
// crypto/rand.Reader. The ECDSA keys of the standard library use their own secure source instead of any other reader;
// if rand is nil, they sign deterministically (RFC 6979).
func (s *Signer) Sign(rand io.Reader, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil || !bytes.HasPrefix(payload, []byte("{")) {
		// The error of json.Marshal may quote a claim.
		return "", fmt.Errorf("signing token: %T does not encode as a JSON object", claims)
	}
	token := make([]byte, 0, len(s.header)+base64.RawURLEncoding.EncodedLen(len(payload))+512)
	token = append(token, s.header...)
	token = base64.RawURLEncoding.AppendEncode(token, payload)
	signature, err := s.signature(rand, token)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	token = append(token, '.')
	token = base64.RawURLEncoding.AppendEncode(token, signature)
	if len(token) > MaxSize {
		return "", fmt.Errorf("signing token: it would be longer than %d bytes", MaxSize)
	}
	return string(token), nil
}

// signature returns the signature in the form of RFC 7518, section 3: for ECDSA, r followed by s.
func (s *Signer) signature(rand io.Reader, message []byte) ([]byte, error) {
	raw, err := s.key.Sign(rand, s.algorithm.digest(message), s.algorithm.hash)
	if err != nil || s.algorithm.size == 0 {
		return raw, err
	}
	return fromASN1(raw, s.algorithm.size)
}

func fromASN1(der []byte, size int) ([]byte, error) {
	var signature struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &signature)
	if err != nil || len(rest) > 0 || !fits(signature.R, size) || !fits(signature.S, size) {
		return nil, errors.New("the key's signature is not the ASN.1 form of an ECDSA signature on its curve")
	}
	out := make([]byte, 2*size)
	signature.R.FillBytes(out[:size])
	signature.S.FillBytes(out[size:])
	return out, nil
}

func fits(n *big.Int, size int) bool { return n.Sign() > 0 && n.BitLen() <= 8*size }

// Sign signs a single token. See NewSigner and Signer.Sign.
func Sign(rand io.Reader, key crypto.Signer, alg, kid string, claims any) (string, error) {
	s, err := NewSigner(key, alg, kid)
	if err != nil {
		return "", err
	}
	return s.Sign(rand, claims)
}
