// Package signer is the service by which a kube-apiserver signs service account tokens with keys that it does not hold:
// ExternalJWTSigner of k8s.io/externaljwt/apis/v1 (KEP-740), which Kubernetes 1.34 and later dial.
//
// Start with New, give Serve a listener, and replace the key directory (package keydir) whenever keys change: no
// API server restarts. Package signercmd is the program around it.
//
// # Which key signs
//
// The one that the key directory names, as soon as the API server has it; until then the one that signed before, if it
// is still in the set and may sign. If neither may sign, Sign says so with Unavailable, and nothing is signed.
//
// The API server has a key once a FetchKeys call that returned the key was answered. Why that is enough: each API
// server has a signer of its own, and keeps the answer to its last FetchKeys, whole, as its cache (syncKeys in
// pkg/serviceaccount/externaljwt/plugin/keycache.go); so the first answer with a key puts it there, no matter when the
// refresh hint of an earlier answer would end. Between our return and that moment, and if the answer gets lost, a
// signature with the key still does no harm: before it lets a token go, the API server looks up its kid
// (validateJWTHeader in plugin.go), and for an unknown one it joins the FetchKeys call under way or makes another one.
// A cache is only ever replaced by a later answer, and a key that leaves the set and comes back counts as a new one
// here.
//
// What that does not cover are verifiers outside, which keep a JWKS for up to the refresh hint. Whoever rotates must
// prove those before it names the key as the signing one, as Keyturn's controller does; or set leadInSeconds in the key
// directory, which makes a key wait so long after that first answer.
//
// Which keys the API server has outlives this process in a file, since an API server that has keys does not fetch them
// again when its signer restarts. The file counts within one boot of the machine only, as no API server outlives that;
// and its times are those of the boot clock, which nobody can set.
//
// # What a flood of FetchKeys meets
//
// kube-apiserver calls FetchKeys for every token with a kid that it does not know, forged ones included, with no limit.
// So it is answered from one prepared message behind an atomic pointer, and shares no lock with Sign.
//
// # When something is bad
//
// A key set that cannot be read, or whose private keys do not sign for their public keys, is not taken: the last good
// set stays, one line of log has the reason, and keyturn_signer_reload_errors_total grows. At the start, when there is
// no last good set, one whose hardware is out of reach is taken nevertheless, because verifying must not wait for it;
// Sign fails until it is back.
//
// Claims, tokens, keys and PINs reach no log, metric or error.
package signer
