// Package gkehub publishes the keys of a cluster as its membership in a fleet of Google Cloud (GKE Hub), where
// workloads trade their tokens at the security token service (STS): fleet workload identity. The local fleet (package
// fleetserver) speaks the same protocols.
//
// New makes a Membership, which implements fleet.Publisher. The membership is the cluster's only while its externalId
// is the cluster's: one of another cluster is never written or deleted. Its issuer is set once and never changed; its
// oidcJwks are exactly the published keys, so Google asks no discovery endpoint of the cluster.
//
// # Proofs
//
// Observe reads the membership and trades one canary token of each key at the STS. The canaries are alike in all but
// the key and the token ID: a version is accepted if its canary was and the membership lists its key; it is refused if
// its canary was, the membership does not list its key, and a canary of a listed key was accepted in the same moment.
// That last one shows that the refusal is about the key, and not about a claim, a clock or the service. Where no key of
// the cluster is listed there is nothing to compare with, and the membership itself is the second witness. Everything
// else is not known: also a key that is listed and refused, for Google takes its time to spread a change.
//
// # Failures
//
// Every call reads first, decides, and writes at most what is missing; so calling again is always right, after a crash
// as well as after an error. A call takes about ten seconds at most: within that it tries again what can be tried again
// (429, 5xx, conflicts, the network) and waits for long-running operations. GKE Hub has no compare-and-swap: somebody
// else who changes the membership between our read and our write is overwritten, and seen by the next Observe.
//
// Errors name the membership and what a person can do. They hold nothing of the credentials, of tokens, or of what a
// server said in a form that is not known. No redirect is followed, since it would take a token along.
package gkehub
