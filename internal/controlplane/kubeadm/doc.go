// Package kubeadm rotates the keys of clusters that kubeadm made.
//
// Clusters.Open is where to start: it returns the controlplane.Adapter of one cluster. Other packages plan what it
// does; here each call observes the control plane and takes one step. Agents (package agent) write to nodes. They get
// their orders through pods/exec, and exist only while something changes.
//
// Find asks the cluster in three ways which API servers it has (the endpoints of Service kubernetes, the mirror
// pods of kube-apiserver, and the control-plane nodes), compares the answers, and reads from the mirror pods what
// each is configured with. It changes nothing. Config then reaches each API server through the load balancer and
// still alone: by a forwarded port of its mirror pod, over TLS for the name of its node, which kubeadm puts into
// its certificate. So a proof needs no route to the nodes, and takes nobody's word: a connection that ends at
// another API server fails.
//
// The mirror pod of an API server lags behind by up to 100 seconds when that restarts. It says how an API server is
// configured, never that it serves or which keys it accepts.
package kubeadm
