// Package legacytoken re-signs the legacy tokens of a user cluster: those in Secrets of type
// kubernetes.io/service-account-token, which kube-controller-manager signs once and never again.
//
// Refresher is where to start: Pass walks over the Secrets of all namespaces, page by page, for as long as its
// budget lasts, and the next call carries on. A walk that met no token of another key and changed nothing is the
// proof that none is left (Result.Proven).
//
// Each Secret is written once, by compare-and-swap on what was read, and holds a token at every instant. The API server
// compares a legacy token with its Secret, so the old token dies with that write. A kubelet projects the new content
// into pods within about a minute by itself; an annotation on the pod makes it do so at once. Pods that copied the
// token when they started keep the dead one until they restart: they are counted and named. Which pods use a Secret,
// and how, is for package podtokens to say.
//
// Nothing is stored besides. A new Refresher starts from the beginning and finds most of the work done. That a pod has
// yet to be told is seen from the Secret's managedFields (when it was re-signed) and the pod's annotation (of which
// write it was told).
package legacytoken
