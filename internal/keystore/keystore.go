// Package keystore stores the key versions of user clusters.
//
// Store is the interface. Secrets implements it with one immutable Secret of the admin cluster for each version, where
// it is encrypted at rest. Every implementation passes the conformance suite in package keystoretest.
package keystore

import (
	"context"
	"crypto"
	"errors"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Cluster names a user cluster. A cluster that is deleted and created again with the same name has another UID, and
// none of the earlier keys.
type Cluster struct {
	Namespace, Name string
	// UID is the identity of the UserCluster.
	UID string
	// Moves means that `clusterctl move` takes new keys along.
	Moves bool
}

// ClusterOf returns what names the cluster of a UserCluster.
func ClusterOf(uc *v1alpha1.UserCluster) Cluster {
	return Cluster{Namespace: uc.Namespace, Name: uc.Name, UID: uc.Identity(), Moves: uc.Moves()}
}

// KeyPair is one key version. It holds a private key: never log or print it.
type KeyPair struct {
	// Version counts from 1.
	Version int
	// Algorithm is the JWS algorithm of its signatures: "RS256", "ES256", or "ES384" for a key that was adopted.
	Algorithm string
	// KeyID is the kid of tokens signed with it.
	KeyID string
	// Signer signs with the private key; its Public is the verification key.
	Signer crypto.Signer
	// CreatedAt is when it was stored.
	CreatedAt time.Time
}

// The errors of a Store that its callers branch on.
var (
	// ErrExists means that the version is already stored, with this or another key.
	ErrExists = errors.New("key version exists already")
	// ErrForeign means that an object with the name of a key version belongs to something else, for example another
	// UserCluster. The store neither uses nor changes it; a person must remove it.
	ErrForeign = errors.New("it is not a key of this cluster")
	// ErrAmbiguous means that a write may or may not have happened: read again before you retry.
	ErrAmbiguous = errors.New("outcome of the write is unknown")
)

// Store stores key versions. What List returns is durable. List sees every write that returned before List was called.
type Store interface {
	// List returns the stored key versions of a cluster, ascending by version. A key with the name of the cluster and
	// another UID is an ErrForeign.
	List(ctx context.Context, c Cluster) ([]KeyPair, error)
	// Create stores a new key version. It never overwrites one that exists: it returns ErrExists, or ErrForeign.
	Create(ctx context.Context, c Cluster, k KeyPair) error
	// Delete deletes a key version for good. One that does not exist is no error; a foreign one is an ErrForeign.
	Delete(ctx context.Context, c Cluster, version int) error
	// DeleteAll deletes every key version of a cluster for good, including those that List cannot read. Foreign objects
	// stay, and are no error.
	DeleteAll(ctx context.Context, c Cluster) error
	// Forget drops what the store caches of clusters with the name of c. It changes nothing that is stored.
	Forget(c Cluster)
}
