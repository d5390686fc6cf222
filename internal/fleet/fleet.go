// Package fleet is the port to the cloud-side registry that trusts the keys of user clusters.
//
// A cluster that is registered with no fleet has no Publisher, and a rotation then skips it.
package fleet

import (
	"context"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
)

// Publisher makes verifiers outside the cluster trust its keys.
type Publisher interface {
	// Observe returns the key versions whose tokens the outside verifiers accept, proven by canary tokens.
	Observe(ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair) (versions []int, err error)
	// Publish makes exactly these keys the ones to be trusted. It is idempotent and returns before the proof.
	Publish(ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair) error
	// Unregister takes the cluster out of the fleet.
	Unregister(ctx context.Context, uc *v1alpha1.UserCluster) error
}
