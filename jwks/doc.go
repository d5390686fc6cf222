// Package jwks holds the public keys that verify service account tokens, in the forms that kube-apiserver serves and
// reads: JSON Web Key Sets, the OpenID Connect discovery document that points to them, and PEM.
//
// Start with NewKey, which gives a public key the same kid and algorithm as kube-apiserver does, and with NewSet.
// Set.Marshal writes what kube-apiserver serves at Path, byte for byte; Parse reads it back.
//
// No Set holds two keys with one kid, a key weaker than MinRSABits or a private key. All ways to make a Set check this,
// so its users need not.
//
// The package is pure: it reads no file, clock or network.
package jwks
