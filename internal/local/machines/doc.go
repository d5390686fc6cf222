// Package machines makes the nodes of one user cluster: it implements nodes.Machines and nodes.Refresher with machines
// of this host, which package machine runs. It assigns each its addresses and pod range, and lets it join the cluster.
package machines
