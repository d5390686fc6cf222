// Package probe is a workload that uses every kind of service account token all the time, and counts refusals.
//
// Start with run, which runs in a pod: for each kind of token and each API server it reads the token's file and uses
// it, many times a second. A recorder counts the results by server and kid, and records the times of stale periods. A
// pod serves its Report under /report and /metrics, and stores it in a ConfigMap that outlives it, since replacing
// nodes replaces pods. Collect and Summarize add up the reports of all pods that ever ran. Manifests returns everything
// that a cluster needs to run the pods.
//
// A refusal is an API server's statement that a token is invalid: HTTP status 401, or a TokenReview that says "not
// authenticated". No answer, or another one (429, 5xx), says nothing about the token and counts as unavailable. The
// same holds for any answer of an API server whose /readyz fails: while it starts and cannot look up a service account,
// it also answers 401.
//
// A Workload gets its tokens in another way: it reads a mounted legacy token once, has it in its environment or by
// subPath, is a native sidecar, or is started by a CronJob. Reports and summaries list them separately.
//
// With workloadIdentityOptions, a pod also uses its workload identity, as programs do on Google Cloud: Google's own
// library exchanges a token from its file for an access token at the security token service (STS, RFC 8693), and the
// access token is used at a resource. It does so again for each use, since a cached access token would hide that the
// STS no longer accepts the other. The refusals are the errors invalid_grant or invalid_request of the STS, and status
// 401 of the resource. A pod without these options has no such line in its report, and Summarize requires none.
//
// kube-apiserver caches an accepted token for 10 s. Within that time it accepts a legacy token whose Secret was already
// overwritten, so only the part of a stale period after these 10 s is seen. FileLag shows how old a mounted legacy
// token really gets: the time from the Secret's change to that of the file.
// A refusal in this time counts as overwritten, too: the probe reads the Secret as soon as a mounted legacy token is
// refused. Every other refusal of such a token is a fault.
package probe
