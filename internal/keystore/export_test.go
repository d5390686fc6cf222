package keystore

import "slices"

// Remembered returns the versions of a cluster's private keys that the store has in memory.
func (s *Secrets) Remembered(c Cluster) []int {
	var versions []int
	known, _ := s.memory.get(c)
	for _, k := range known {
		versions = append(versions, k.Version)
	}
	slices.Sort(versions)
	return versions
}
