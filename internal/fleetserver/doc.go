// Package fleetserver is the local fleet: a small server that speaks the protocols of Google Cloud, so that Google's
// own client libraries work with it on machines without Google Cloud.
//
// New makes a Server, which is an http.Handler; Run is the command keyturn-fleet, which serves one over TLS. It has
//
//   - memberships, as in the GKE Hub API v1: create, get, list, patch, delete, and long-running operations
//   - POST /v1/token, the security token service (STS): trades a service account token for an access token (RFC 8693)
//   - POST /token, the token endpoint of Google service accounts: trades a signed assertion for an access token (RFC
//     7523)
//   - POST /revoke, which ends an access token (RFC 7009)
//   - GET /v1/whoami, a resource that only says whose access token it was shown
//   - GET /healthz
//
// Memberships are for the accounts in Options.Registrars; NewServiceAccountKey makes the key file of one. The server
// stores only their public keys.
//
// # Storage
//
// The state file holds memberships, operations and since when each key set is in force. It is replaced atomically, and
// is on disk before a write is answered: an answered write survives kill -9 and power cuts. Next to it, in a file whose
// name ends in .tokens, are the SHA-256 hashes of the access tokens. An exchange appends one line to it and does not
// wait for the disk: access tokens survive kill -9, but those of the last seconds not a power cut. No file holds a
// secret. Until its access token expires, a repeated request gets the same one.
//
// The number of valid access tokens is limited: for each principal, for each membership, and in total, with some
// reserved for registrars. Beyond that the answer is 503.
//
// # Differences from Google's
//
// There is no OIDC discovery: a membership without oidcJwks has no keys, and its tokens are refused. Principals name
// the project by its ID, not its number. Self-signed access tokens of service accounts are not supported. Lists cannot
// be filtered or ordered. Each membership has an ETag header and If-Match is honored; Google has neither. Faults can be
// injected: see Faults.
package fleetserver
