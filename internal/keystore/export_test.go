package keystore

import "slices"

// Remembered returns the versions of a cluster's private keys that the store has in memory.
func (s *Secrets) Remembered(c Cluster) []int {
	var versions []int
	for _, k := range s.memory.get(c) {
		versions = append(versions, k.Version)
	}
	slices.Sort(versions)
	return versions
}
