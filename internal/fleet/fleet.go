// Package fleet is the port to the destinations outside a cluster whose verifiers trust its keys.
//
// Publisher is where to start: one destination to which the public keys of one cluster are published, such as its
// membership in a fleet (package gkehub) or a bucket of discovery documents (package discovery). A cluster may have any
// number of them; one that has none is rotated without. fleettest holds what every Publisher must keep to.
package fleet

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/keystore"
)

// Errors of Publisher.Publish after which everything is as it was. Trying again does not help: a person has to act.
var (
	// ErrForeign: what is published there is not the cluster's, or holds a key that the cluster does not have.
	ErrForeign = errors.New("it is not this cluster's")
	// ErrStale: keys of a later step are published there. The caller's view of the cluster is an old one.
	ErrStale = errors.New("keys of a later step are published there")
)

// Publisher is one destination to which the public keys of one cluster are published for verifiers outside of it. Its
// calls do not overlap.
type Publisher interface {
	// Name names the destination for people, like "fleet membership projects/p/locations/l/memberships/m". It never
	// changes.
	Name() string
	// Observe reports which of the keys are accepted there, proven as well as the destination allows, and changes
	// nothing. keys are all that the cluster has. An error is no answer about any key. It never holds a token or a
	// private key.
	Observe(ctx context.Context, keys []keystore.KeyPair) (Observation, error)
	// Publish makes the public keys of these versions the only ones that are published; what is there already it
	// leaves alone. keys are all that the cluster has: Publish replaces no other key (ErrForeign), and does not go back
	// to an earlier step (ErrStale). It returns before the proof. After any other error the keys may be published or
	// not.
	Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error
	// Remove removes what Publish made, and nothing else: it is no error if that is gone, or if what is there is not
	// the cluster's.
	Remove(ctx context.Context) error
}

// Only returns those of the keys that have these versions.
func Only(keys []keystore.KeyPair, versions []int) []keystore.KeyPair {
	return slices.DeleteFunc(slices.Clone(keys),
		func(k keystore.KeyPair) bool { return !slices.Contains(versions, k.Version) })
}

// Stage is how far the published key versions are on the way forward, an integer that grows with each step of each
// rotation: the oldest and the newest version, added up. A Publisher keeps it beside the keys and refuses to go back.
func Stage(versions []int) int {
	if len(versions) == 0 {
		return 0
	}
	return slices.Min(versions) + slices.Max(versions)
}

// Observation is what one destination has shown of itself.
type Observation struct {
	// Accepts and Refuses are the key versions that verifiers were seen to accept and refuse, ascending; a version in
	// neither is not known, for example because it is published and not accepted yet.
	Accepts, Refuses []int
	// PublishedAt is when what is published was last changed; zero when nothing is.
	PublishedAt time.Time
	// CertainAt is from when on no verifier can use what was published before: PublishedAt and the propagation time.
	CertainAt time.Time
	// Waiting says in words what else is not as Publish leaves it, like a published key that the cluster does not have;
	// empty when nothing.
	Waiting string
}
