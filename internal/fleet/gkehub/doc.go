// Package gkehub publishes the keys of a cluster as its membership in a fleet of Google Cloud (GKE Hub). Workloads
// exchange their tokens at the security token service (STS): fleet workload identity. The local fleet (package
// fleetserver) implements the same protocols.
//
// New returns a Membership, which implements fleet.Publisher. The membership belongs to the cluster only while its
// externalId is the cluster's; one of another cluster is never written or deleted. Its issuer is set once and never
// changed. Its oidcJwks are exactly the published keys, so Google fetches no discovery document of the cluster.
//
// # Proofs
//
// Observe reads the membership and exchanges one canary token of each key at the STS. The canaries differ only in the
// key and the token ID. A version is accepted if its canary was accepted and the membership lists its key. It is
// refused if its canary was refused, the membership does not list its key, and a canary of a listed key was accepted at
// the same time. That one shows that the refusal is about the key, and not about a claim, a clock or the service. If no
// key of the cluster is listed, there is nothing to compare with, and the membership itself is the second witness.
// Everything else is unknown, including a key that is listed and refused, since Google takes some time to propagate a
// change.
//
// # Failures
//
// Every call reads first, decides, and writes only what is missing, so it can always be repeated, after a crash as well
// as after an error. A call takes about ten seconds at most: within that time it retries what can be retried (429, 5xx,
// conflicts, the network) and waits for long-running operations. GKE Hub has no compare-and-swap: if somebody else
// changes the membership between our read and our write, their change is overwritten, and the next Observe sees it.
//
// Errors name the membership and what a person can do. They contain nothing of the credentials, of tokens, or of
// answers in unknown form. No redirect is followed, since it would forward a token.
package gkehub
