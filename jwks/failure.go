package jwks

// Failure is the class of what is wrong with a key or a key set. Every error that reading or making one
// returns wraps a Failure; find it with errors.Is or errors.AsType.
type Failure string

// The classes of failure.
const (
	// Malformed: not the JSON, base64url or PEM that it should be, or a member is missing.
	Malformed Failure = "malformed"
	// UnsupportedKey: a kind of key, a curve, a use or an algorithm that is not known here, or that does not fit the key.
	UnsupportedKey Failure = "unsupported key"
	// WeakKey: an RSA key shorter than MinRSABits, or with an exponent or modulus that no good RSA key has.
	WeakKey Failure = "weak key"
	// PrivateKey: a private or symmetric key where a public key belongs.
	PrivateKey Failure = "private key"
	// DuplicateKeyID: two keys of a set have the same kid.
	DuplicateKeyID Failure = "duplicate key ID"
)

// Error returns the name of the class.
func (f Failure) Error() string { return string(f) }
