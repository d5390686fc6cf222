package controller_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
)

// TestManySilentClusters has far more clusters fall silent at once than there are workers. While a round of each waits
// for an answer that never comes, another cluster is rotated.
func TestManySilentClusters(t *testing.T) {
	const silent = 12
	w := newWorld(t)
	w.reconciler.Options.Workers = 2
	quick := w.settled("quick")
	for i := range silent {
		w.settled("silent-" + string(rune('a'+i)))
	}
	address := swallow(t)
	asked := make(chan string, silent)
	released, release := context.WithCancel(t.Context())
	w.reconciler.Prove = func(ctx context.Context, q controlplane.Question) (controlplane.Proof, error) {
		if !strings.Contains(q.Config.Host, "/silent-") {
			return w.prove(ctx, q)
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(released, cancel)()
		select {
		case asked <- q.Config.Host:
		default: // again, on a machine that is slower than the timeout of a round
		}
		_, err := (&tls.Dialer{}).DialContext(ctx, "tcp", address)
		return controlplane.Proof{}, err
	}
	defer w.manage()()
	defer release()
	hosts := map[string]bool{}
	for len(hosts) < silent {
		hosts[within(t, "all silent clusters are asked", asked)] = true
	}
	w.rotate(quick)
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, electionPatience, true,
		func(context.Context) (bool, error) {
			uc := w.get(quick)
			return isSettled(uc) && uc.Status.KSASigningKey.TokenVersion == 2, nil
		})
	if err != nil {
		t.Errorf("beside silent clusters, the rotation does not end: %v", err)
	}
}

// lagging is a client that reads a UserCluster as it was before, as a cache does that has yet to see a write.
type lagging struct {
	client.Client
	before *v1alpha1.UserCluster
}

func (l *lagging) Get(ctx context.Context, key client.ObjectKey, into client.Object, opts ...client.GetOption) error {
	if uc, ok := into.(*v1alpha1.UserCluster); ok && l.before != nil {
		l.before.DeepCopyInto(uc)
		return nil
	}
	return l.Client.Get(ctx, key, into, opts...)
}

// TestLaggingCache has a round read the UserCluster from before the last write, whose status shows a settled cluster.
// The written status shows that the kubeconfig is due, and must not do so for the ten minutes until the next proof.
func TestLaggingCache(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	cache := &lagging{Client: w.reconciler.Client}
	w.reconciler.Client = cache
	settled := w.get(blue)
	w.with(blue, func(c *userCluster) { c.kubeconfig = "another" })
	if uc := w.round(blue); isSettled(uc) {
		t.Fatal("the cluster is settled while its kubeconfig is due")
	}
	cache.before = settled
	if result := <-w.start(blue); result.RequeueAfter > time.Second {
		t.Errorf("a round that reads what it has replaced itself is followed by one in %s", result.RequeueAfter)
	}
	cache.before = nil
	if uc := w.round(blue); !isSettled(uc) {
		t.Errorf("the cluster is not settled once the cache has seen the write: %+v", uc.Status)
	}
}

// manage has a manager run the controller for the clusters of this world, until the function is called that it returns.
func (w *world) manage() (stop func()) { return w.manageAt("") }

// manageAt is manage with an address for the health of the manager.
func (w *world) manageAt(health string) (stop func()) {
	w.Helper()
	again := true // the name of the controller, in this process
	m, err := ctrl.NewManager(w.config, ctrl.Options{
		Scheme: w.controller.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: health,
		Controller: config.Controller{SkipNameValidation: &again},
		Cache:      cache.Options{DefaultNamespaces: map[string]cache.Config{w.namespace: {}}},
		Client:     client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.reconciler.Client = m.GetClient()
	if err := w.reconciler.SetupWithManager(m); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Start(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("the manager ended with %v", err)
		}
	}
}
