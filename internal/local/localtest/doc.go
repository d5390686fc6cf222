// Package localtest is shared by the tests of local clusters: free addresses, a UserCluster, and a Driver that brings a
// control plane to the state that a test wants.
package localtest
