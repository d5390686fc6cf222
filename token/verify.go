package token

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/keyturn/keyturn/jwks"
)

// Expect is what Verify expects of a token.
type Expect struct {
	// Issuer is the expected issuer: LegacyIssuer for legacy tokens.
	Issuer string
	// Audience must be one of the token's audiences. It is empty for legacy tokens, and only for those.
	Audience string
	// Now is the time of verification. At the zero time, every token is not yet valid.
	Now time.Time
	// Leeway is how far the issuer's clock may be off in either direction. It must not be negative.
	Leeway time.Duration
}

// Verify returns the claims of a token that one of the keys signed and that matches expect. Otherwise the error wraps a
// Failure. Only legacy tokens may lack an expiry.
//
// Verify cannot know whether the service account, the pod or the Secret still exists; only kube-apiserver does.
func Verify(token string, keys jwks.Set, expect Expect) (Claims, error) {
	p, err := split(token)
	if err != nil {
		return Claims{}, fmt.Errorf("verifying token: %w", err)
	}
	h, c, err := p.parse()
	if err != nil {
		return Claims{}, fmt.Errorf("verifying token: %w", err)
	}
	if err := verifySignature(p, h, keys); err != nil {
		return Claims{}, fmt.Errorf("verifying token: %w", err)
	}
	if err := expect.check(c); err != nil {
		return Claims{}, fmt.Errorf("verifying token: %w", err)
	}
	return c, nil
}

func verifySignature(p parts, h Header, keys jwks.Set) error {
	key, found := keys.Lookup(h.KeyID)
	if !found {
		return UnknownKey
	}
	if key.Algorithm != h.Algorithm {
		return fmt.Errorf("%w: not that of the key", UnsupportedAlgorithm)
	}
	a, _ := algorithmNamed(h.Algorithm)
	if !a.verify(key, []byte(p.signed), p.signature) {
		return BadSignature
	}
	return nil
}

func (a algorithm) verify(key jwks.Key, message, signature []byte) bool {
	switch public := key.Public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, a.hash, a.digest(message), signature) == nil
	case *ecdsa.PublicKey:
		if len(signature) != 2*a.size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:a.size]), new(big.Int).SetBytes(signature[a.size:])
		return ecdsa.Verify(public, a.digest(message), r, s)
	}
	return false
}

// check checks the claims of a token whose signature is valid.
func (e Expect) check(c Claims) error {
	switch {
	case e.Issuer == "" || c.Issuer != e.Issuer:
		return WrongIssuer
	case !e.audienceFits(c):
		return WrongAudience
	case c.Expiry == 0 && e.Audience != "": // with no expected audience, it is a legacy token
		return malformed("it never expires and is not a legacy token")
	case c.Expiry != 0 && !e.Now.Add(-e.Leeway).Before(c.Expiry.Time()):
		return Expired
	case e.Now.Add(e.Leeway).Before(c.NotBefore.Time()), e.Now.Add(e.Leeway).Before(c.IssuedAt.Time()):
		return NotYetValid
	}
	return nil
}

func (e Expect) audienceFits(c Claims) bool {
	if e.Audience == "" {
		return c.IsLegacy() && len(c.Audience) == 0
	}
	return slices.Contains(c.Audience, e.Audience)
}
