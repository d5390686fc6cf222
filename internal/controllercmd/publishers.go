package controllercmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/keystore"
)

// publishers makes the destinations that the keys of clusters are published to. It keeps them, with their connections
// and access tokens, until their configuration changes or the cluster is gone.
type publishers struct {
	// secrets reads Secrets of the admin cluster without a cache.
	secrets client.Reader
	allowed allowed
	log     *slog.Logger

	mu sync.Mutex
	of map[types.NamespacedName]made
}

var _ controller.Publishers = (*publishers)(nil)

// made are the destinations of one cluster, and the key that they were made for.
type made struct {
	key          cacheKey
	destinations []fleet.Publisher
}

// cacheKey changes when the cluster's spec or its credentials change.
type cacheKey struct {
	uid         types.UID
	generation  int64
	credentials string // the resource version of the Secret, or why it cannot be used
}

// Of implements controller.Publishers: the fleet membership of a cluster, if it has one, and its buckets.
func (p *publishers) Of(ctx context.Context, uc *v1alpha1.UserCluster) []fleet.Publisher {
	secret, err := p.credentials(ctx, uc)
	key := cacheKey{uid: uc.UID, generation: uc.Generation, credentials: secret.ResourceVersion}
	if err != nil {
		key.credentials = err.Error()
	}
	name := client.ObjectKeyFromObject(uc)
	was := p.recall(name)
	if was.key == key {
		return was.destinations
	}
	is := made{key: key}
	switch {
	case uc.Spec.GKEConnect == nil:
	case isReleased(uc, err) && was.membership(uc.UID) != nil:
		is.destinations = append(is.destinations, was.membership(uc.UID))
	default:
		is.destinations = append(is.destinations, p.membership(uc, secret.Data[v1alpha1.CredentialsKey], err))
	}
	for i, url := range uc.Spec.KSASigningKey.Publish {
		is.destinations = append(is.destinations, p.bucket(uc, fmt.Sprintf("ksaSigningKey.publish[%d]", i), url))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[types.NamespacedName]made{}
	}
	p.of[name] = is
	return is.destinations
}

func (p *publishers) recall(name types.NamespacedName) made {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of[name]
}

// membership returns the membership of the cluster with this UID; nil if there is none that can be used.
func (m made) membership(uid types.UID) fleet.Publisher {
	for _, d := range m.destinations {
		if membership, ok := d.(*gkehub.Membership); ok && m.key.uid == uid {
			return membership
		}
	}
	return nil
}

// Former implements controller.Publishers.
func (p *publishers) Former(uc *v1alpha1.UserCluster, name string) (fleet.Publisher, bool) {
	for _, url := range uc.Spec.KSASigningKey.Publish {
		if bucketurl.Same(url, name) {
			return nil, false // written in another way
		}
	}
	bucket, isBucket := p.bucket(uc, name, name).(*discovery.Bucket)
	return bucket, isBucket
}

// Forget implements controller.Publishers.
func (p *publishers) Forget(cluster types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.of, cluster)
}

// credentials reads the Secret that gkeConnect names; an empty one if none is named. It reads only a Secret that is
// marked as the cluster's, since the author of a UserCluster may not be allowed to read Secrets.
func (p *publishers) credentials(ctx context.Context, uc *v1alpha1.UserCluster) (*corev1.Secret, error) {
	connect := uc.Spec.GKEConnect
	if connect == nil || connect.CredentialsSecret == "" {
		return &corev1.Secret{}, nil
	}
	secret, key := &corev1.Secret{}, client.ObjectKey{Namespace: uc.Namespace, Name: connect.CredentialsSecret}
	if err := p.secrets.Get(ctx, key, secret); err != nil {
		return &corev1.Secret{}, fmt.Errorf("reading the credentials of the fleet: %w", err)
	}
	if !v1alpha1.IsCredential(secret, uc) {
		return &corev1.Secret{}, fmt.Errorf("%w: gkeConnect.credentialsSecret names Secret %s, which is not this cluster's "+
			"and is not used: it lacks the label %s=%s or the type %s, or another UserCluster owns it",
			errNotAllowed, key, v1alpha1.LabelCluster, uc.Name, corev1.SecretTypeOpaque)
	}
	if len(secret.Data[v1alpha1.CredentialsKey]) == 0 {
		return &corev1.Secret{}, fmt.Errorf("reading the credentials of the fleet: Secret %s has no %q",
			key, v1alpha1.CredentialsKey)
	}
	return secret, nil
}

// isReleased reports whether the credentials of a cluster were deleted before it, as happens when their namespace is
// deleted. They cannot be restored there, so the membership is removed with what is left in memory, or else stays.
func isReleased(uc *v1alpha1.UserCluster, err error) bool {
	return !uc.DeletionTimestamp.IsZero() && apierrors.IsNotFound(err)
}

// membership makes the membership of a cluster, with these credentials or, for the reason why, without.
func (p *publishers) membership(uc *v1alpha1.UserCluster, credentials []byte, why error) fleet.Publisher {
	connect := uc.Spec.GKEConnect
	o := gkehub.Options{
		ProjectID: connect.ProjectID, Location: connect.Location, Membership: uc.Name,
		ExternalID: uc.Identity(), Issuer: uc.Spec.KSASigningKey.Issuer,
		Endpoint: connect.Endpoint, STSEndpoint: connect.STSEndpoint, CABundle: []byte(connect.CABundle),
		CredentialsJSON: credentials, Propagation: seconds(connect.PropagationSeconds), Log: p.log,
	}
	if why != nil {
		leave := isReleased(uc, why) || errors.Is(why, errNotAllowed)
		return unusable{name: o.Name(), why: why, leave: leave, log: p.log}
	}
	if err := p.allowed.checkFleet(connect, credentials); err != nil {
		return unusable{name: o.Name(), why: err, leave: true, log: p.log}
	}
	// It outlives the round in which it is made.
	membership, err := gkehub.New(context.Background(), o)
	if err != nil {
		return unusable{name: o.Name(), why: err, log: p.log}
	}
	return membership
}

func (p *publishers) bucket(uc *v1alpha1.UserCluster, field, url string) fleet.Publisher {
	if err := p.allowed.checkPublish(field, url); err != nil {
		return unusable{name: field, why: err, leave: true, log: p.log}
	}
	key := uc.Spec.KSASigningKey
	bucket, err := discovery.New(discovery.Options{
		Cluster: uc.Identity(), URL: url, Issuer: key.Issuer, MaxAge: seconds(key.PublishMaxAgeSeconds),
	})
	if err != nil {
		return unusable{name: field, why: err, leave: true, log: p.log}
	}
	return bucket
}

// unusable is a destination that is never contacted.
type unusable struct {
	name string
	why  error
	// leave means that deleting the cluster does not wait for it, since nothing that could be removed is there.
	leave bool
	log   *slog.Logger
}

func (u unusable) Name() string { return u.name }

func (u unusable) Observe(context.Context, []keystore.KeyPair) (fleet.Observation, error) {
	return fleet.Observation{}, u.why
}

func (u unusable) Publish(context.Context, []keystore.KeyPair, []int) error { return u.why }

func (u unusable) Remove(ctx context.Context) error {
	if !u.leave {
		return u.why
	}
	u.log.WarnContext(ctx, "removing nothing from a destination that cannot be used",
		"destination", u.name, "error", u.why)
	return nil
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
