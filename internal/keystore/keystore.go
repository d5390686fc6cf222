// Package keystore keeps the key versions of user clusters.
//
// Store is the port. Secrets is the adapter that keeps each version as one immutable Secret of the
// admin cluster, where it is encrypted at rest. Every adapter passes the conformance suite in
// package keystoretest.
package keystore

import (
	"context"
	"crypto"
	"errors"
	"time"
)

// Cluster names the user cluster whose keys are meant. A cluster that is deleted and made again under its name has
// another UID, and none of the keys of the one before.
type Cluster struct {
	Namespace, Name string
	// UID is the UID of the UserCluster.
	UID string
}

// KeyPair is one key version. It holds a private key: never log or print it.
type KeyPair struct {
	// Version counts from 1.
	Version int
	// Algorithm is the JWS algorithm of its signatures: "RS256", "ES256", or "ES384" of a key that was adopted.
	Algorithm string
	// KeyID is the kid of tokens signed with it.
	KeyID string
	// Signer signs with the private key; its Public is the verification key.
	Signer crypto.Signer
	// CreatedAt is when the store took it.
	CreatedAt time.Time
}

// The errors of a Store that its callers branch on.
var (
	// ErrExists means that the version is stored already, with this or another key.
	ErrExists = errors.New("key version exists already")
	// ErrForeign: what has the name of a key version belongs to somebody else, another UserCluster or
	// nobody that the store knows. The store neither uses nor changes it; a person has to remove it.
	ErrForeign = errors.New("it is not a key of this cluster")
	// ErrAmbiguous means that a write may or may not have happened: read again before trying again.
	ErrAmbiguous = errors.New("outcome of the write is unknown")
)

// Store keeps key versions. What it returned from List was durable; List sees every write that
// returned before it was called.
type Store interface {
	// List returns the stored key versions of a cluster, ascending by version. One that another UID has stored for
	// the same name is ErrForeign.
	List(ctx context.Context, c Cluster) ([]KeyPair, error)
	// Create stores a new key version. A version that exists is never overwritten: ErrExists, or ErrForeign.
	Create(ctx context.Context, c Cluster, k KeyPair) error
	// Delete removes a key version for good. One that is not there is no error; one of somebody else is ErrForeign.
	Delete(ctx context.Context, c Cluster, version int) error
	// DeleteAll removes every key version of a cluster for good, also those that List could not read. What belongs to
	// somebody else stays, and is no error.
	DeleteAll(ctx context.Context, c Cluster) error
	// Forget drops what the store remembers of the keys of clusters with the name of c. Nothing that is stored changes.
	Forget(c Cluster)
}
