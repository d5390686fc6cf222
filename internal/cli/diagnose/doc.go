// Package diagnose checks everything that a rotation of a signing key needs: Keyturn in the admin cluster, one
// UserCluster, and the user cluster itself.
//
// Gather is where to start: it reads, and changes nothing. Of Secrets it reads the metadata alone. Judge is pure: it
// maps the Facts that were gathered to a Report, by one small function for each check. What could not be read is a fact
// too: a check whose facts nobody may read is skipped, and says so.
package diagnose
