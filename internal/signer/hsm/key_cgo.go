//go:build cgo

package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/keyturn/keyturn/internal/signer/pkcs11uri"
	"github.com/keyturn/keyturn/signer/keydir"
)

// key is a private key in a token.
type key struct {
	module *Module
	uri    pkcs11uri.URI
	pin    keydir.Secret
	public crypto.PublicKey
}

var _ crypto.Signer = (*key)(nil)

// Public implements crypto.Signer.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer, for PKCS #1 v1.5 and ECDSA. The token has its own random numbers.
func (k *key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	mechanism, message, err := k.prepare(digest, opts)
	if err != nil {
		return nil, err
	}
	err = k.module.do(func(l *library) error {
		return l.session(k.uri, k.pin, func(s pkcs11.SessionHandle) error {
			object, err := l.object(s, k.uri)
			if err != nil {
				return err
			}
			if err := l.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, object); err != nil {
				return fmt.Errorf("signing: %w", err)
			}
			if signature, err = l.ctx.Sign(s, message); err != nil {
				return fmt.Errorf("signing: %w", err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if mechanism == pkcs11.CKM_ECDSA {
		return toASN1(signature)
	}
	return signature, nil
}

// digestInfo is the DER in front of a SHA-256 digest in a PKCS #1 v1.5 signature (RFC 8017, section 9.2).
var digestInfo = []byte{
	0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
}

func (k *key) prepare(digest []byte, opts crypto.SignerOpts) (mechanism uint, message []byte, err error) {
	if opts.HashFunc().Size() != len(digest) {
		return 0, nil, errors.New("signing: the digest is not of the hash function")
	}
	switch k.public.(type) {
	case *ecdsa.PublicKey:
		return pkcs11.CKM_ECDSA, digest, nil
	case *rsa.PublicKey:
		if _, pss := opts.(*rsa.PSSOptions); !pss && opts.HashFunc() == crypto.SHA256 {
			return pkcs11.CKM_RSA_PKCS, slices.Concat(digestInfo, digest), nil
		}
	}
	return 0, nil, errors.New("signing: not with this kind of key or hash function")
}

// toASN1 turns an ECDSA signature as tokens give it, r and s one after the other, into what crypto.Signer returns.
func toASN1(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, errors.New("signing: the PKCS #11 token gave no ECDSA signature")
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}
