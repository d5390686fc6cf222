package token

import "fmt"

// Failure is the class of what is wrong with a token. Every error of ParseUnverified, KeyID and Verify wraps one;
// find it with errors.Is or errors.AsType.
type Failure string

// The classes of failure, in the order in which Verify looks for them.
const (
	// Malformed: not a token in compact form, or one that no API server makes.
	Malformed Failure = "malformed"
	// UnsupportedAlgorithm: signed by an algorithm that is not known here, or is not that of the key.
	UnsupportedAlgorithm Failure = "unsupported algorithm"
	// UnknownKey: none of the keys has the token's kid, or the token has none.
	UnknownKey Failure = "unknown key"
	// BadSignature: the key with the token's kid did not make its signature.
	BadSignature Failure = "bad signature"
	// WrongIssuer: the token's issuer is not the one expected.
	WrongIssuer Failure = "wrong issuer"
	// WrongAudience: the expected audience is not among the token's.
	WrongAudience Failure = "wrong audience"
	// Expired: the token's time is over.
	Expired Failure = "expired"
	// NotYetValid: the token's time has not come, or it says that it was issued in the future.
	NotYetValid Failure = "not yet valid"
)

// Error returns the name of the class.
func (f Failure) Error() string { return string(f) }

// malformed says what is wrong without saying what is there instead.
func malformed(what string) error { return fmt.Errorf("%w: %s", Malformed, what) }
