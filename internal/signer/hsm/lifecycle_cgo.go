//go:build cgo

package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/keyturn/keyturn/internal/signer/pkcs11uri"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

// Generate creates the key pair of a URI in the token, for an algorithm: RS256, ES256 or ES384. The URI must have both
// object and id. The private key is sensitive and not extractable: it never leaves the token. An existing key is never
// replaced: ErrExists.
func (m *Module) Generate(rawURI string, pin keydir.Secret, algorithm string) (public crypto.PublicKey, err error) {
	u, err := pkcs11uri.Parse(rawURI)
	if err != nil {
		return nil, err
	}
	if u.Object == "" || u.ID == "" {
		return nil, errors.New("PKCS #11 URI: to generate a key it needs both object and id")
	}
	mechanism, own, err := parameters(algorithm)
	if err != nil {
		return nil, err
	}
	err = m.do(func(l *library) error {
		return l.session(u, pin, func(s pkcs11.SessionHandle) error {
			if found, err := l.find(s, u, pkcs11.CKO_PRIVATE_KEY); err != nil || len(found) > 0 {
				return errors.Join(err, existing(found))
			}
			handle, _, err := l.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)},
				append(append(named(u), publicAttributes()...), own...), append(named(u), privateAttributes()...))
			if err != nil {
				return fmt.Errorf("generating a key: %w", err)
			}
			public, err = l.public(s, handle, algorithm)
			return err
		})
	})
	return public, err
}

func existing(found []pkcs11.ObjectHandle) error {
	if len(found) > 0 {
		return ErrExists
	}
	return nil
}

func publicAttributes() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
	}
}

func privateAttributes() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
	}
}

// The curves, as CKA_EC_PARAMS names them.
var (
	oidP256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384 = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
)

// parameters returns the mechanism that generates keys for an algorithm, and the specific attributes of its public
// keys.
func parameters(algorithm string) (mechanism uint, own []*pkcs11.Attribute, err error) {
	oid := oidP256
	switch algorithm {
	case jwks.RS256:
		return pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, jwks.MinRSABits),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		}, nil
	case jwks.ES256:
	case jwks.ES384:
		oid = oidP384
	default:
		return 0, nil, fmt.Errorf("generating a key: no algorithm %q", algorithm)
	}
	der, err := asn1.Marshal(oid)
	return pkcs11.CKM_EC_KEY_PAIR_GEN, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, der)}, err
}

// public reads a public key.
func (l *library) public(
	s pkcs11.SessionHandle, handle pkcs11.ObjectHandle, algorithm string,
) (crypto.PublicKey, error) {
	wanted := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)}
	if algorithm == jwks.RS256 {
		wanted = []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil),
		}
	}
	got, err := l.ctx.GetAttributeValue(s, handle, wanted)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	switch algorithm {
	case jwks.RS256:
		return &rsa.PublicKey{
			N: new(big.Int).SetBytes(got[0].Value), E: int(new(big.Int).SetBytes(got[1].Value).Int64()),
		}, nil
	case jwks.ES256:
		return point(elliptic.P256(), got[0].Value)
	}
	return point(elliptic.P384(), got[0].Value)
}

// point reads CKA_EC_POINT, an uncompressed point in a DER OCTET STRING, which some tokens omit.
func point(curve elliptic.Curve, der []byte) (crypto.PublicKey, error) {
	var raw []byte
	if rest, err := asn1.Unmarshal(der, &raw); err != nil || len(rest) > 0 {
		raw = bytes.Clone(der)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, raw)
	if err != nil {
		return nil, errors.New("reading a public key: it is not a point of its curve")
	}
	return public, nil
}

// Destroy destroys the key pair of a URI in the token, for good. One that does not exist is no error.
func (m *Module) Destroy(rawURI string, pin keydir.Secret) error {
	u, err := pkcs11uri.Parse(rawURI)
	if err != nil {
		return err
	}
	return m.do(func(l *library) error {
		defer l.forget(u)
		return l.session(u, pin, func(s pkcs11.SessionHandle) error {
			// The private key comes first, so that a crash in between leaves nothing that signs.
			for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
				found, err := l.find(s, u, class)
				if err != nil {
					return err
				}
				if len(found) > 1 {
					return errNoKey
				}
				for _, handle := range found {
					if err := l.ctx.DestroyObject(s, handle); err != nil {
						return fmt.Errorf("destroying a key: %w", err)
					}
				}
			}
			return nil
		})
	})
}
