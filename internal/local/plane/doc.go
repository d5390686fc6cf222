// Package plane runs control planes as processes of this host: etcd, API servers with their signers,
// kube-controller-managers, kube-schedulers, and HAProxy before them.
//
// ControlPlane is the one of a user cluster: it implements controlplane.Adapter. Plane is what it shares with the admin
// cluster. Both are level-triggered: what runs is found by observing it, by pid and start time, and each call does the
// next thing that is missing, so that a caller may die anywhere.
package plane
