// Package datadir manages the data directory of local clusters: the mark that identifies it, the lock of the one
// process that may change clusters, the range of addresses, and the registry of sites.
//
// Start with Open. A Site is the directory and the addresses of one cluster on this host. A user cluster keeps its site
// for life, and no two clusters ever share one.
package datadir
