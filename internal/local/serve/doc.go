// Package serve lets controllers use the user clusters of this host, through package remote, and wakes a controller
// when something of a cluster dies, starts or changes.
package serve
