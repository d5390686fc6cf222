// Package probe is a workload that uses every kind of service account token all the time, and counts refusals.
//
// Start at run, which a pod runs: for each kind of token and each API server it reads the token's file and
// uses it, many times a second. A recorder counts what came of it, by server and kid, and keeps the times of
// stale spells. A pod tells its Report under /report and /metrics, and keeps it in a ConfigMap that outlives it,
// since replacing nodes replaces pods. Collect and Summarize add up those of all pods that ever ran.
// Manifests has everything that a cluster needs to run the pods.
//
// A refusal is the API server's word that a token is not good: HTTP status 401, or a TokenReview that says "not
// authenticated". No answer, or one of another kind (429, 5xx), says nothing about the token and counts as unavailable.
// So does the word of an API server whose /readyz fails: while it starts and cannot look up a service account, it
// answers 401 too.
//
// A Workload comes by its tokens in another way: it reads a mounted legacy token once, has it in its environment or by
// subPath, is a native sidecar, or is started by a CronJob. Reports and summaries keep them apart.
//
// With workloadIdentityOptions, a pod also uses its workload identity, as programs do on Google Cloud: Google's own
// library trades a token of its file for an access token at the security token service (STS, RFC 8693), and the access
// token is used at a resource. It does so anew for each use, since a kept access token would hide that the STS no
// longer takes the other. There the refusals are the error invalid_grant or invalid_request of the STS, and status 401
// of the resource. A pod without these options has no such line in its report, and Summarize asks for none.
//
// kube-apiserver keeps an accepted token for 10 s. Within that time it accepts a legacy token whose Secret
// was overwritten already, so a stale spell is only seen as far as it outlasts those 10 s. FileLag is what
// tells how old a mounted legacy token really gets: the time from the Secret's change to that of the file.
// A refusal in this time counts as overwritten, too: the probe reads the Secret as soon as a mounted legacy token is
// refused. Every other refusal of such a token is a fault.
package probe
