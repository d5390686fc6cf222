// Package kubeadm rotates the keys of clusters that kubeadm made.
//
// Clusters.Open is where to start: it returns the controlplane.Adapter of one cluster. What it does is planned
// elsewhere; here each call looks at the control plane and takes one step. Writes to nodes are orders to agents
// (package agent), carried by pods/exec, and agents are there only while something changes.
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
