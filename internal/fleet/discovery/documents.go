package discovery

import (
	"crypto"
	"fmt"
	"reflect"
	"time"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// The names of the objects, below the issuer's URL.
const (
	discoveryName = ".well-known/openid-configuration"
	jwksName      = "openid/v1/jwks"
)

// document is one object as it should be.
type document struct {
	name, contentType, cacheControl string
	data                            []byte
	// sameAs describes what is wrong with the content of an object; empty if it is equivalent to data.
	sameAs func(data []byte) string
}

// object is one object as it is.
type object struct {
	found                     bool
	contentType, cacheControl string
	modified                  time.Time
	data                      []byte
	// version distinguishes one write of the object from the next; the zero value for a directory.
	version version
}

// served is both objects as they are.
type served struct{ discovery, keys object }

func (b *Bucket) discoveryDocument(set jwks.Set) (document, error) {
	want, err := jwks.NewDiscovery(b.o.Issuer, b.o.Issuer+jwks.Path, set)
	if err != nil {
		return document{}, fmt.Errorf("making the discovery document: %w", err)
	}
	data, err := want.Marshal()
	return document{
		name: discoveryName, contentType: "application/json", cacheControl: b.cacheControl(),
		data: mark{Cluster: b.o.Cluster}.on(data),
		sameAs: func(data []byte) string {
			is, err := jwks.ParseDiscovery(data)
			if err != nil {
				return err.Error()
			}
			if difference := discoveryDifference(want, is); difference != "" {
				return difference
			}
			return b.markDifference(data)
		},
	}, err
}

// discoveryDifference quotes no value of the document, which somebody else may have written.
func discoveryDifference(want, is jwks.Discovery) string {
	switch {
	case is.Issuer != want.Issuer:
		return "is of another issuer"
	case is.JWKSURI != want.JWKSURI:
		return "points at another JWKS"
	case !reflect.DeepEqual(is.Algorithms, want.Algorithms):
		return fmt.Sprintf("does not list the algorithms %v of the keys", want.Algorithms)
	case !reflect.DeepEqual(is, want):
		return "lists other response or subject types"
	}
	return ""
}

// jwksDocument returns the JWKS of these keys, at a stage.
func (b *Bucket) jwksDocument(set jwks.Set, stage int) (document, error) {
	data, err := set.Marshal()
	return document{
		name: jwksName, contentType: "application/jwk-set+json", cacheControl: b.cacheControl(),
		data: mark{Cluster: b.o.Cluster, Stage: stage}.on(data),
		sameAs: func(data []byte) string {
			is, others, err := jwks.ParseUsable(data)
			switch {
			case err != nil:
				return err.Error()
			case is.Len() != set.Len() || len(missing(set, is)) > 0:
				return "holds other keys"
			case others > 0:
				return fmt.Sprintf("holds %d keys that cannot be used", others)
			case markOf(data).Stage != stage:
				return "lacks the stage of its keys"
			}
			return b.markDifference(data)
		},
	}, err
}

func (b *Bucket) cacheControl() string {
	return fmt.Sprintf("public, max-age=%d", int64(b.o.MaxAge.Seconds()))
}

// setOf returns the public keys.
func setOf(keys []keystore.KeyPair) (jwks.Set, error) {
	public := make([]jwks.Key, 0, len(keys))
	for _, k := range keys {
		if err := k.Validate(); err != nil {
			return jwks.Set{}, err
		}
		public = append(public, publicKey(k))
	}
	return jwks.NewSet(public...)
}

func publicKey(k keystore.KeyPair) jwks.Key {
	return jwks.Key{KeyID: k.KeyID, Algorithm: k.Algorithm, Public: k.Signer.Public()}
}

// union returns the keys of a set and the usable ones of a JWKS.
func union(set jwks.Set, data []byte) jwks.Set {
	other, _, err := jwks.ParseUsable(data)
	if err != nil {
		return set // there is no JWKS
	}
	both, err := jwks.NewSet(append(set.Keys(), missing(other, set)...)...)
	if err != nil {
		return set // two keys have one kid: the one in the JWKS is foreign
	}
	return both
}

// missing returns the keys of a set that are not in another.
func missing(from, in jwks.Set) []jwks.Key {
	var keys []jwks.Key
	for _, k := range from.Keys() {
		if !holds(in, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func holds(set jwks.Set, k jwks.Key) bool {
	found, ok := set.Lookup(k.KeyID)
	public, isPublic := k.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && isPublic && public.Equal(found.Public)
}
