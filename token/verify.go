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

// Expect is what a token must be to be good.
type Expect struct {
	// Issuer must be the token's: LegacyIssuer for legacy tokens.
	Issuer string
	// Audience must be among the token's. Legacy tokens have none: for them, and only for them, it is empty.
	Audience string
	// Now is the time. The zero time finds every token not yet valid.
	Now time.Time
	// Leeway is how far the clock of the issuer may be off in either direction; it is not negative.
	Leeway time.Duration
}

// Verify returns the claims of a token that one of the keys signed and that is what was expected. Otherwise the error
// wraps a Failure. Only legacy tokens may be without an expiry.
//
// It does not know whether the service account, the pod or the Secret still exist; only kube-apiserver does.
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

// check compares the claims of a token whose signature is good.
func (e Expect) check(c Claims) error {
	switch {
	case e.Issuer == "" || c.Issuer != e.Issuer:
		return WrongIssuer
	case !e.audienceFits(c):
		return WrongAudience
	case c.Expiry == 0 && e.Audience != "": // without one it is a legacy token, or its audience does not fit
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
