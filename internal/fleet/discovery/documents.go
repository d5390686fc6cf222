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
	// sameAs says what is wrong with the content of an object; empty when it says what data says.
	sameAs func(data []byte) string
}

// object is one object as it is.
type object struct {
	found                     bool
	contentType, cacheControl string
	modified                  time.Time
	data                      []byte
}

// served is both objects as they are.
type served struct{ discovery, keys object }

func (b *Bucket) discoveryDocument(set jwks.Set) (document, error) {
	want, err := jwks.NewDiscovery(b.issuer, b.issuer+jwks.Path, set)
	if err != nil {
		return document{}, fmt.Errorf("making the discovery document: %w", err)
	}
	data, err := want.Marshal()
	return document{
		name: discoveryName, contentType: "application/json", cacheControl: b.cacheControl(), data: data,
		sameAs: func(data []byte) string {
			is, err := jwks.ParseDiscovery(data)
			if err != nil {
				return err.Error()
			}
			return discoveryDifference(want, is)
		},
	}, err
}

// discoveryDifference tells no value of the document: somebody else may have written it.
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

func (b *Bucket) jwksDocument(set jwks.Set) (document, error) {
	data, err := set.Marshal()
	return document{
		name: jwksName, contentType: "application/jwk-set+json", cacheControl: b.cacheControl(), data: data,
		sameAs: func(data []byte) string {
			is, err := jwks.Parse(data)
			if err != nil {
				return err.Error()
			}
			if is.Len() != set.Len() || len(missing(set, is)) > 0 {
				return "holds other keys"
			}
			return ""
		},
	}, err
}

func (b *Bucket) cacheControl() string {
	return fmt.Sprintf("public, max-age=%d", int64(b.maxAge.Seconds()))
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

// union returns the keys of a set and of a JWKS; of the set only, if the JWKS is missing or does not parse.
func union(set jwks.Set, data []byte) jwks.Set {
	other, err := jwks.Parse(data)
	if err != nil {
		return set
	}
	both, err := jwks.NewSet(append(set.Keys(), missing(other, set)...)...)
	if err != nil {
		return set // a kid that two keys have: that of the JWKS is foreign
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
