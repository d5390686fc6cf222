// Package admincluster is the admin cluster of a data directory: etcd, an API server that encrypts Secrets at rest, the
// controller, the local fleet, and keyturn-local, which keeps all of them running and serves the user clusters of this
// host.
//
// Start with Open. gkectl calls Create and Delete, and keyturn-local calls Run.
package admincluster
