package jwks

// Failure is the class of an invalid key or key set. Every error of reading or making one wraps a Failure; find it with
// errors.Is or errors.AsType.
type Failure string

// The classes of failure.
const (
	// Malformed: not valid JSON, base64url or PEM, or a member is missing.
	Malformed Failure = "malformed"
	// UnsupportedKey: an unknown kind of key, curve, use or algorithm, or one that does not fit the key.
	UnsupportedKey Failure = "unsupported key"
	// WeakKey: an RSA key shorter than MinRSABits, or with an unsafe exponent or modulus.
	WeakKey Failure = "weak key"
	// PrivateKey: a private or symmetric key where a public key belongs.
	PrivateKey Failure = "private key"
	// DuplicateKeyID: two keys of a set have the same kid.
	DuplicateKeyID Failure = "duplicate key ID"
)

// Error returns the name of the class.
func (f Failure) Error() string { return string(f) }
