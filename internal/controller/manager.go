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

// Times of a leader election. A leader that cannot renew its lease for renewDeadline ends; another one takes over when
// the lease was not renewed for leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Election is how several controllers agree on the one that works. The zero value is none: this one works.
type Election struct {
	// Namespace and ID name the Lease that they share; ID is empty for no election.
	Namespace, ID string
}

// ManagerOptions are what a manager of Reconcilers is made with.
type ManagerOptions struct {
	Election Election
	// Metrics serves /metrics.
	Metrics server.Options
	// HealthAddress is where /healthz and /readyz are served; empty: nowhere.
	HealthAddress string
	// SecretNamespaces are those whose Secrets are watched; empty: all.
	SecretNamespaces []string
}

// NewManager makes a manager for the admin cluster that config reaches. Whoever runs it must end with it: its lease is
// given up when its context ends.
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
		// Secrets hold private keys: they are read when needed, and no cache has more of them than their metadata.
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

// cacheOptions keep of the admin cluster what is needed: UserClusters, and the metadata of Secrets of clusters.
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

// Wakes bring the next rounds of clusters forward. Whoever runs a control plane has one when something of it has died.
type Wakes chan event.TypedGenericEvent[types.NamespacedName]

// Wake brings the next round of a cluster forward, unless ctx ends first.
func (w Wakes) Wake(ctx context.Context, cluster types.NamespacedName) {
	select {
	case w <- event.TypedGenericEvent[types.NamespacedName]{Object: cluster}:
	case <-ctx.Done():
	}
}

// SetupWithManager makes m run the reconciler for every UserCluster, several clusters side by side.
func (r *Reconciler) SetupWithManager(m ctrl.Manager) error {
	if err := r.Options.Validate(); err != nil {
		return err
	}
	if err := errors.Join(m.AddReadyzCheck("rounds", r.Check), m.AddHealthzCheck("rounds", r.Check)); err != nil {
		return fmt.Errorf("adding the check of rounds: %w", err)
	}
	b := ctrl.NewControllerManagedBy(m).
		// What the controller itself writes, the status, wakes nobody.
		For(&v1alpha1.UserCluster{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, predicate.LabelChangedPredicate{},
		))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(clusterOfSecret)).
		Named("usercluster").
		WithOptions(controller.Options{
			MaxConcurrentReconciles: roundsAtOnce, // of which few work: see rounds.work
			// A rotation that failed for an hour goes on within seconds once the cause is gone.
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

// clusterOfSecret is the cluster that a Secret says it belongs to: its key versions, credentials and kubeconfig.
func clusterOfSecret(_ context.Context, secret client.Object) []reconcile.Request {
	name := types.NamespacedName{Namespace: secret.GetNamespace(), Name: secret.GetLabels()[v1alpha1.LabelCluster]}
	return []reconcile.Request{{NamespacedName: name}}
}
