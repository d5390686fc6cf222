// Package signer is the service by which a kube-apiserver signs service account tokens with keys that it does not hold:
// ExternalJWTSigner of k8s.io/externaljwt/apis/v1 (KEP-740), which Kubernetes 1.34 and later dial.
//
// Start with New, give Signer.Serve a listener, and replace the key directory (package keydir) whenever keys change. No
// API server restarts. Give each API server a signer of its own. The program keyturn-signer wraps this package: it
// holds the socket in a process without keys, starts a new process when a private key was retired, and serves metrics.
//
// # Which key signs
//
// The key directory names the key that is to sign. It signs as soon as the API server has it. Until then the key that
// signed before goes on, if it is still in the set and may sign. If neither may sign, Sign fails with Unavailable.
//
// The API server has a key once it was answered a FetchKeys call with that key. It keeps the answer to its last
// FetchKeys, whole, as its cache (syncKeys in pkg/serviceaccount/externaljwt/plugin/keycache.go), and only a later
// answer replaces that. So the refresh hint of an earlier answer does not matter. A signature that arrives before the
// answer, or after the answer was lost, does no harm: the API server looks up its kid before it lets the token go
// (validateJWTHeader in plugin.go), and for an unknown kid it calls FetchKeys or joins the call under way. A key that
// leaves the set and comes back counts as a new one.
//
// Verifiers outside the cluster are another matter, because they keep a JWKS for up to the refresh hint. Whoever
// rotates must prove that they accept a key before naming it as the one that is to sign, as Keyturn's controller does.
// Or set leadInSeconds in the key directory: a key then waits that long after the first answer with it.
//
// Options.StateFile keeps which keys the API server has, because an API server does not fetch keys again when its
// signer restarts. The file counts within one boot of the machine only, as no API server outlives that. Its times are
// of the boot clock, which nobody can set.
//
// # Which tokens live
//
// With Options.LedgerFile a signer notes until when the tokens live that it signed, before it gives a signature out.
// Package ledger reads the file, and says how far to believe it. A ledger that cannot be written is removed, and
// signing goes on; if it cannot be removed either, Sign fails, since the file would claim less than there is.
//
// # Many calls of FetchKeys
//
// kube-apiserver calls FetchKeys for every token with a kid that it does not know, forged ones included, with no limit.
// So FetchKeys returns one prepared message behind an atomic pointer, and shares no lock with Sign.
//
// # Bad key sets
//
// A key set is refused if it cannot be read, or if its private keys do not sign for their public keys. The last good
// set then stays, one line of log has the reason, and keyturn_signer_reload_errors_total grows. There is one exception,
// for a new signer without a last good set: it takes a set whose hardware is out of reach, because verifying must not
// wait for that. Sign fails until the hardware is back.
//
// Tokens, keys and PINs reach no log, metric or error, and claims none but the ledger.
package signer
