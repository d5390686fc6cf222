// Package local runs whole clusters of real Kubernetes processes on this one host: an admin cluster, the
// control planes of user clusters, and their machines.
//
// Host is where to start. It is to Keyturn what a hypervisor is to production: it implements the ports
// controlplane.Adapter and nodes.Machines, and Run serves them to controllers by package remote. Everything is
// level-triggered: what runs is found by observing it (a process by its pid and start time, a network by its bridge),
// and each call does the next thing that is missing, so that a caller may die anywhere.
package local
