// Package signer is the service with which a kube-apiserver signs service account tokens without holding the keys:
// ExternalJWTSigner of k8s.io/externaljwt/apis/v1 (KEP-740), which Kubernetes 1.34 and later call.
//
// Start with New, pass Signer.Serve a listener, and replace the key directory (package keydir) to change the keys. No
// API server restarts. Give each API server its own signer. The program keyturn-signer wraps this package: it holds the
// socket in a process without keys, starts a new process when a private key was retired, and serves metrics.
//
// # Which key signs
//
// The key directory names the key that should sign. That key signs as soon as the API server has it. Until then the
// previous key signs, if it is still in the set and may sign. If neither may, Sign fails with Unavailable.
//
// The API server has a key once a FetchKeys call returned it. The answer to its last FetchKeys is its whole cache
// (syncKeys in pkg/serviceaccount/externaljwt/plugin/keycache.go), and only a later answer replaces it. So the refresh
// hint of an earlier answer does not matter. A signature that arrives before the answer, or after the answer was lost,
// does no harm: before it returns a token, the API server looks up its kid (validateJWTHeader in plugin.go), and for an
// unknown kid it calls FetchKeys or joins the call under way. A key that leaves the set and comes back counts as new.
//
// Verifiers outside the cluster differ, because they may keep a JWKS for as long as the refresh hint. Before you name a
// new key as the one that signs, prove that they accept it, as Keyturn's controller does. Or set leadInSeconds in the
// key directory: a key then waits that long after the first answer with it.
//
// Options.StateFile records which keys the API server has, because an API server does not fetch keys again when its
// signer restarts. The file is valid only until the machine reboots, since no API server outlives that. Its times are
// of the boot clock, which nobody can set.
//
// # Which tokens live
//
// With Options.LedgerFile, a signer records when the tokens that it signs expire, before it returns a signature.
// Package ledger reads the file, and defines how complete it is. A ledger that cannot be written is removed, and
// signing goes on. If it cannot be removed either, Sign fails, since the file would lack tokens.
//
// # Many calls of FetchKeys
//
// kube-apiserver calls FetchKeys for every token with an unknown kid, also for forged ones, without limit. So FetchKeys
// returns one prepared message behind an atomic pointer, and shares no lock with Sign.
//
// # Bad key sets
//
// The signer refuses a key set that it cannot read, or whose private keys do not sign for their public keys. It keeps
// the last good set, logs the reason once, and raises keyturn_signer_reload_errors_total. There is one exception: a new
// signer, which has no last good set, takes a set whose hardware is out of reach, because verifying must not wait for
// it. Sign fails until the hardware is back.
//
// No log, metric or error contains tokens, keys or PINs. Claims are only in the ledger.
package signer
