package token

import (
	"crypto"
	_ "crypto/sha256" // links the hash in
	_ "crypto/sha512" // links the hash in

	"github.com/keyturn/keyturn/jwks"
)

// algorithm describes the signatures of one JWS algorithm.
type algorithm struct {
	hash crypto.Hash
	// size is the length in bytes of r and of s of an ECDSA signature; 0 for RSA.
	size int
}

func algorithmNamed(name string) (algorithm, bool) {
	switch name {
	case jwks.RS256:
		return algorithm{hash: crypto.SHA256}, true
	case jwks.ES256:
		return algorithm{hash: crypto.SHA256, size: 32}, true
	case jwks.ES384:
		return algorithm{hash: crypto.SHA384, size: 48}, true
	}
	return algorithm{}, false
}

func (a algorithm) digest(message []byte) []byte {
	h := a.hash.New()
	h.Write(message)
	return h.Sum(nil)
}
