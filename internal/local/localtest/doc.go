// Package localtest is what the tests of local clusters share: free addresses, a UserCluster, and a Driver that brings
// a control plane to what a test wants.
package localtest
