// Package programs finds the programs that this host runs: Kubernetes binaries and etcd, by their version, HAProxy, and
// Keyturn's own.
//
// Start with New. A program of another version than requested is never started.
package programs
