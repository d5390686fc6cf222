// Package plane runs control planes as processes of this host: etcd, API servers with their signers,
// kube-controller-managers, kube-schedulers, and HAProxy before them.
//
// ControlPlane is the control plane of a user cluster, and implements controlplane.Adapter. Plane is the part that it
// shares with the admin cluster. Both are level-triggered: they find what runs by observing it, by pid and start time,
// and each call does the next missing step, so that a caller may die anywhere.
package plane
