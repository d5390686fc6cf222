// Package legacytoken signs the legacy tokens of a user cluster again: those in Secrets of type
// kubernetes.io/service-account-token, which kube-controller-manager signs only once.
//
// Start with Refresher: Pass walks over the Secrets of all namespaces, page by page, for as long as its budget lasts,
// and the next call continues. A walk that met no token of another key and changed nothing proves that none is left
// (Result.Proven).
//
// Each Secret is written once, by compare-and-swap on what was read, and always holds a token. The API server compares
// a legacy token with its Secret, so the old token dies with that write. A kubelet projects the new content into pods
// within about a minute; an annotation on the pod makes it do so at once. Pods that copied the token when they started
// keep the dead one until they restart: they are counted and named. Package podtokens determines which pods use a
// Secret, and how.
//
// No other state is stored. A new Refresher starts from the beginning and finds most of the work done. A pod must still
// be notified if its Secret's managedFields are newer than the write that its annotation names.
package legacytoken
