// Package jwks holds the public keys by which service account tokens are verified, in the forms that
// kube-apiserver serves and reads: JSON Web Key Sets, the OpenID Connect discovery document that points
// at them, and PEM.
//
// Start with NewKey, which gives a public key the kid and the algorithm that kube-apiserver gives it, and
// with NewSet. Set.Marshal writes what kube-apiserver serves at Path, byte for byte; Parse reads it back.
//
// A Set holds no two keys with one kid, no key weaker than MinRSABits and no private key. That holds for
// every Set, however it was made, so its users need not check again.
//
// The package is pure: it reads no file, clock or network.
package jwks
