// Package admincluster is the admin cluster of a data directory: etcd, an API server that encrypts Secrets at rest, the
// controller, the local fleet, and keyturn-local, which keeps all of them running and serves the user clusters of this
// host.
//
// Open is where to start. Create and Delete are what gkectl does, and Run is keyturn-local.
package admincluster
