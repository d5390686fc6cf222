// Package clusterapi rotates the keys of clusters of Cluster API whose control plane is a KubeadmControlPlane.
//
// Clusters.Open is where to start: it returns the controlplane.Adapter of one cluster. Package kubeadm provides nodes,
// agents and proofs. This package adds the management cluster, in which the Cluster of Cluster API is beside its
// UserCluster:
//
//   - Secret CLUSTER-kubeconfig is how the API servers are reached. Cluster API renews it, so each round reads it.
//   - Secret CLUSTER-sa is what control-plane machines start with. Cluster API copies it into the bootstrap data of
//     each, and reads it at no other time. It is the bootstrap material of rotation.Observed: first to change in each
//     step.
//   - A control-plane Machine that has no node yet starts with the keys that its bootstrap data was or will be made of.
//     It counts as an API server that is not proven. One that is being deleted counts until its API server no longer
//     serves.
//
// Of Cluster API nothing but Secret CLUSTER-sa is written, and while a cluster is paused nothing at all.
package clusterapi
