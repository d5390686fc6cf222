// Package fleet is the interface to the destinations outside a cluster whose verifiers trust its keys.
//
// Start with Publisher: one destination that the public keys of one cluster are published to, such as its membership in
// a fleet (package gkehub) or a bucket of discovery documents (package discovery). A cluster may have any number of
// destinations, or none. Package fleettest has the conformance suite.
package fleet

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/keystore"
)

// Errors of Publisher.Publish after which nothing has changed. Trying again does not help: a person must act.
var (
	// ErrForeign: the published content is not the cluster's, or holds a key that the cluster does not have.
	ErrForeign = errors.New("it is not this cluster's")
	// ErrStale: keys of a later step are published there. The caller's observation of the cluster is outdated.
	ErrStale = errors.New("keys of a later step are published there")
)

// Publisher is one destination that the public keys of one cluster are published to, for verifiers outside it. Its
// calls do not overlap.
type Publisher interface {
	// Name describes the destination for people, such as "fleet membership projects/p/locations/l/memberships/m". It
	// never changes.
	Name() string
	// Observe reports which of the keys are accepted there, proven as well as the destination allows, and changes
	// nothing. keys are all keys of the cluster. An error says nothing about any key. It never contains a token or a
	// private key.
	Observe(ctx context.Context, keys []keystore.KeyPair) (Observation, error)
	// Publish makes the public keys of these versions the only published ones; it does not write what is there already.
	// keys are all keys of the cluster: Publish replaces no other key (ErrForeign), and does not go back to an earlier
	// step (ErrStale). It returns before the proof. After any other error, the keys may or may not be published.
	Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error
	// Remove removes only what Publish made. It is no error if that is gone, or if what is there is not the cluster's.
	Remove(ctx context.Context) error
}

// Only returns the keys that have these versions.
func Only(keys []keystore.KeyPair, versions []int) []keystore.KeyPair {
	return slices.DeleteFunc(slices.Clone(keys),
		func(k keystore.KeyPair) bool { return !slices.Contains(versions, k.Version) })
}

// Stage orders published key versions by progress, as an integer that grows with each step of each rotation: the sum of
// the oldest and the newest version. A Publisher stores it with the keys and refuses to go back.
func Stage(versions []int) int {
	if len(versions) == 0 {
		return 0
	}
	return slices.Min(versions) + slices.Max(versions)
}

// Observation is what one destination has shown.
type Observation struct {
	// Accepts and Refuses are the key versions that verifiers were seen to accept and refuse, ascending. A version in
	// neither is unknown, for example because it is published and not accepted yet.
	Accepts, Refuses []int
	// PublishedAt is when the published content last changed; zero if nothing is published.
	PublishedAt time.Time
	// CertainAt is when no verifier can use earlier content any longer: PublishedAt plus the propagation time.
	CertainAt time.Time
	// Waiting describes what else differs from what Publish leaves, such as a published key that the cluster does not
	// have; empty if nothing.
	Waiting string
}
