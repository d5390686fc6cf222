// Package token signs, reads and verifies service account tokens: JSON Web Tokens (RFC 7519) as
// kube-apiserver and kube-controller-manager make them.
//
// To sign many tokens with one key, make a Signer; Sign is for a single one. Claims holds what either kind of
// token says: NewLegacyClaims fills it for a token in a Secret, NewBoundClaims for one that expires. KeyID tells by
// which key a token was signed, for next to nothing; Verify says whether it is good, and when not, in which
// of the ways that Failure lists.
//
// No error of this package holds a token, a part of one, or a private key.
//
// The package is pure: it reads no file, clock or network. Time comes from the caller. So does randomness, as far
// as Go's cryptography lets it: see GenerateKey and Signer.Sign.
package token
