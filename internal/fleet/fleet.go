// Package fleet is the port to the places outside a cluster that trust its keys.
//
// Publisher is where to start: one place where the public keys of one cluster are published, such as its membership
// in a fleet (package gkehub) or a bucket of discovery documents (package discovery). A cluster may have any number
// of them; one that has none is rotated without. fleettest holds what every Publisher must keep to.
package fleet

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/internal/keystore"
)

// Publisher is one place where the public keys of one cluster are published for verifiers outside of it. Its calls
// do not overlap.
type Publisher interface {
	// Name names the place for people, like "fleet membership projects/p/locations/l/memberships/m". It never changes.
	Name() string
	// Observe says which of the keys are accepted there, proven as well as the place allows, and changes nothing. An
	// error is no answer about any key. It never holds a token or a private key.
	Observe(ctx context.Context, keys []keystore.KeyPair) (Observation, error)
	// Publish makes the public keys of these the only ones that are published; what is there already it leaves alone.
	// It returns before the proof. After an error the keys may be published or not.
	Publish(ctx context.Context, keys []keystore.KeyPair) error
	// Remove takes all that Publish made away. That it is gone already is no error.
	Remove(ctx context.Context) error
}

// Observation is what one place has shown of itself.
type Observation struct {
	// Accepts and Refuses are the key versions that verifiers were seen to accept and refuse, ascending; a version in
	// neither is not known, for example because it is published and not accepted yet.
	Accepts, Refuses []int
	// PublishedAt is when what is published was last changed; zero when nothing is.
	PublishedAt time.Time
	// SureAt is from when on no verifier can use what was published before: PublishedAt and the propagation time.
	SureAt time.Time
	// Waiting says in words what else is not as Publish leaves it, like a published key that is none of the cluster's;
	// empty when nothing.
	Waiting string
}
