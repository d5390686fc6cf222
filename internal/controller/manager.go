package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Times of the leader election. A leader that cannot renew its lease within renewDeadline exits; another one takes over
// when the lease was not renewed for leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Election is how several controllers agree on the active one. With the zero value there is no election: this one is
// active.
type Election struct {
	// Namespace and ID name the Lease that they share; without an ID there is no election.
	Namespace, ID string
}

// ManagerOptions are the options of NewManager.
type ManagerOptions struct {
	Election Election
	// Metrics serves /metrics.
	Metrics server.Options
	// HealthAddress is where /healthz and /readyz are served; empty: not at all.
	HealthAddress string
	// SecretNamespaces are the namespaces whose Secrets are watched; empty: all.
	SecretNamespaces []string
}

// NewManager returns a manager for the admin cluster that config reaches. The process must exit when the manager ends,
// since it then releases its lease.
func NewManager(config *rest.Config, o ManagerOptions) (ctrl.Manager, error) {
	scheme, err := NewScheme()
	if err != nil {
		return nil, err
	}
	lease, renew, retry := leaseDuration, renewDeadline, retryPeriod
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions(o.SecretNamespaces),
		Metrics:                       o.Metrics,
		HealthProbeBindAddress:        o.HealthAddress,
		LeaderElection:                o.Election.ID != "",
		LeaderElectionID:              o.Election.ID,
		LeaderElectionNamespace:       o.Election.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		// Secrets hold private keys: they are read when needed, and only their metadata is cached.
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	if err := m.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("adding /healthz: %w", err)
	}
	if err := m.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("adding /readyz: %w", err)
	}
	return m, nil
}

// cacheOptions caches only what is needed of the admin cluster: UserClusters, and the metadata of Secrets of clusters.
func cacheOptions(secretNamespaces []string) cache.Options {
	labelled, err := labels.NewRequirement(v1alpha1.LabelCluster, selection.Exists, nil)
	if err != nil {
		panic(err) // the label is valid
	}
	secrets := cache.ByObject{Label: labels.NewSelector().Add(*labelled), Namespaces: map[string]cache.Config{}}
	for _, namespace := range secretNamespaces {
		secrets.Namespaces[namespace] = cache.Config{}
	}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject:         map[client.Object]cache.ByObject{&corev1.Secret{}: secrets},
	}
}

// Wakes start the next rounds of clusters earlier. An adapter that runs a control plane wakes when a part of it died.
type Wakes chan event.TypedGenericEvent[types.NamespacedName]

// Wake starts the next round of a cluster earlier, unless ctx ends first.
func (w Wakes) Wake(ctx context.Context, cluster types.NamespacedName) {
	select {
	case w <- event.TypedGenericEvent[types.NamespacedName]{Object: cluster}:
	case <-ctx.Done():
	}
}

// SetupWithManager registers the reconciler with m for every UserCluster, several clusters in parallel.
func (r *Reconciler) SetupWithManager(m ctrl.Manager) error {
	if err := r.Options.Validate(); err != nil {
		return err
	}
	if err := errors.Join(m.AddReadyzCheck("rounds", r.Check), m.AddHealthzCheck("rounds", r.Check)); err != nil {
		return fmt.Errorf("adding the check of rounds: %w", err)
	}
	b := ctrl.NewControllerManagedBy(m).
		// The controller's own writes of the status must not trigger rounds.
		For(&v1alpha1.UserCluster{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, predicate.LabelChangedPredicate{},
		))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(clusterOfSecret)).
		Named("usercluster").
		WithOptions(controller.Options{
			MaxConcurrentReconciles: roundsAtOnce, // only a few of them work at a time: see rounds.work
			// A rotation that failed for an hour continues within seconds once the cause is gone.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](afterProgress, longestBackOff),
		})
	if r.Wakes != nil {
		b.WatchesRawSource(source.TypedChannel(r.Wakes, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, name types.NamespacedName) []reconcile.Request {
				return []reconcile.Request{{NamespacedName: name}}
			})))
	}
	return b.Complete(r)
}

// clusterOfSecret returns the cluster that a Secret's labels name: it is for key versions, credentials and kubeconfigs.
func clusterOfSecret(_ context.Context, secret client.Object) []reconcile.Request {
	name := types.NamespacedName{Namespace: secret.GetNamespace(), Name: secret.GetLabels()[v1alpha1.LabelCluster]}
	return []reconcile.Request{{NamespacedName: name}}
}
