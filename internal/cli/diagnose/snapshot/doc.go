// Package snapshot makes support bundles: what somebody needs to see who helps with a cluster, without a secret.
//
// Take is where to start. Three layers keep secrets out. No Secret is read but its metadata. Every text goes through
// Redact, which takes out what looks like a private key, a token or another long random string. Before the bundle is
// written, Scan searches each file for keys and tokens in another way, and a hit fails the whole bundle.
package snapshot
