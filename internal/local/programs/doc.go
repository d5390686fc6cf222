// Package programs finds the programs that this host runs: Kubernetes binaries and etcd, by their version, HAProxy, and
// Keyturn's own.
//
// New says where to search. No program is started of another version than was asked for.
package programs
