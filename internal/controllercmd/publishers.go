package controllercmd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
)

// publishers makes the places where the keys of clusters are published, and keeps them, with their connections and
// access tokens, until what they are made of changes.
type publishers struct {
	// secrets reads Secrets of the admin cluster, from no cache.
	secrets client.Reader
	log     *slog.Logger

	mu sync.Mutex
	of map[types.NamespacedName]made
}

// made are the places of one cluster, and what they were made of.
type made struct {
	of     makings
	places []fleet.Publisher
}

// makings tell a state of a cluster and of the Secret with its credentials from every other.
type makings struct {
	uid         types.UID
	generation  int64
	credentials string // the resource version of the Secret
}

// places returns the fleet membership of a cluster, if it has one, and its buckets.
func (p *publishers) places(ctx context.Context, uc *v1alpha1.UserCluster) ([]fleet.Publisher, error) {
	credentials, err := p.credentials(ctx, uc)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := client.ObjectKeyFromObject(uc)
	is := made{of: makings{uid: uc.UID, generation: uc.Generation, credentials: credentials.ResourceVersion}}
	if was := p.of[name]; was.of == is.of {
		return was.places, nil
	}
	if is.places, err = p.make(uc, credentials.Data[v1alpha1.CredentialsKey]); err != nil {
		return nil, err
	}
	if p.of == nil {
		p.of = map[types.NamespacedName]made{}
	}
	p.of[name] = is
	return is.places, nil
}

// credentials reads the Secret that gkeConnect names; it is empty when none is named.
func (p *publishers) credentials(ctx context.Context, uc *v1alpha1.UserCluster) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	connect := uc.Spec.GKEConnect
	if connect == nil || connect.CredentialsSecret == "" {
		return secret, nil
	}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: connect.CredentialsSecret}
	if err := p.secrets.Get(ctx, key, secret); err != nil {
		return nil, fmt.Errorf("reading the credentials of the fleet: %w", err)
	}
	if len(secret.Data[v1alpha1.CredentialsKey]) == 0 {
		return nil, fmt.Errorf("reading the credentials of the fleet: Secret %s has no %q", key, v1alpha1.CredentialsKey)
	}
	return secret, nil
}

func (p *publishers) make(uc *v1alpha1.UserCluster, credentials []byte) ([]fleet.Publisher, error) {
	var places []fleet.Publisher
	if connect := uc.Spec.GKEConnect; connect != nil {
		// It lives longer than the round in which it is made.
		membership, err := gkehub.New(context.Background(), gkehub.Options{
			ProjectID: connect.ProjectID, Location: connect.Location, Membership: uc.Name,
			ExternalID: string(uc.UID), Issuer: uc.Spec.KSASigningKey.Issuer,
			Endpoint: connect.Endpoint, STSEndpoint: connect.STSEndpoint, CABundle: []byte(connect.CABundle),
			CredentialsJSON: credentials, Propagation: seconds(connect.PropagationSeconds), Log: p.log,
		})
		if err != nil {
			return nil, fmt.Errorf("reaching the fleet of %s: %w", uc.Name, err)
		}
		places = append(places, membership)
	}
	key := uc.Spec.KSASigningKey
	for _, url := range key.Publish {
		bucket, err := discovery.New(discovery.Options{URL: url, Issuer: key.Issuer, MaxAge: seconds(key.PublishMaxAgeSeconds)})
		if err != nil {
			return nil, err
		}
		places = append(places, bucket)
	}
	return places, nil
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
