package token

import "fmt"

// Failure is the class of an invalid token. Every error of ParseUnverified, KeyID and Verify wraps one; find it with
// errors.Is or errors.AsType.
type Failure string

// The classes of failure, in the order in which Verify checks them.
const (
	// Malformed: not a token in compact form, or one that no API server makes.
	Malformed Failure = "malformed"
	// UnsupportedAlgorithm: signed by an unknown algorithm, or by one that is not the key's.
	UnsupportedAlgorithm Failure = "unsupported algorithm"
	// UnknownKey: none of the keys has the token's kid, or the token has none.
	UnknownKey Failure = "unknown key"
	// BadSignature: the signature is not by the key with the token's kid.
	BadSignature Failure = "bad signature"
	// WrongIssuer: the token's issuer is not the one expected.
	WrongIssuer Failure = "wrong issuer"
	// WrongAudience: the expected audience is not among the token's.
	WrongAudience Failure = "wrong audience"
	// Expired: the token has expired.
	Expired Failure = "expired"
	// NotYetValid: the token is not valid yet, or was issued in the future.
	NotYetValid Failure = "not yet valid"
)

// Error returns the name of the class.
func (f Failure) Error() string { return string(f) }

// malformed returns an error that names what is wrong, but quotes nothing of the token.
func malformed(what string) error { return fmt.Errorf("%w: %s", Malformed, what) }
