// Package token signs, reads and verifies service account tokens: JSON Web Tokens (RFC 7519) as
// kube-apiserver and kube-controller-manager make them.
//
// To sign many tokens with one key, make a Signer; Sign is for a single token. Claims holds the claims of both kinds of
// token: NewLegacyClaims fills it for a token in a Secret, NewBoundClaims for one that expires. KeyID returns which key
// signed a token, at little cost. Verify reports why a token is not valid, as one of the Failures.
//
// No error of this package holds a token, a part of one, or a private key.
//
// The package is pure: it reads no file, clock or network. The caller passes the time. It also passes the source of
// randomness, as far as Go's cryptography allows: see GenerateKey and Signer.Sign.
package token
