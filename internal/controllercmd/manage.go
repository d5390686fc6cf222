package controllercmd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes/rollout"
)

func manage(ctx context.Context, f flags, cfg *rest.Config, log *slog.Logger) error {
	cfg = adminConfig(cfg)
	m, err := newManager(ctx, cfg, f.manager.managerOptions(f.metrics, f.health), log)
	if err != nil {
		return err
	}
	if err := addController(m, cfg, f, log); err != nil {
		return err
	}
	return m.Start(ctx)
}

// awayPatience is how long the API server of the admin cluster may be down when a controller starts, followed by how
// often it is tried meanwhile.
const (
	awayPatience = 3 * time.Minute
	awayInterval = time.Second
)

// newManager creates the manager as soon as the API server answers. The only API server of a cluster that rotates its
// own keys is down while it reads new files; a controller that exited because of that would be restarted later and
// later.
func newManager(
	ctx context.Context, cfg *rest.Config, options controller.ManagerOptions, log *slog.Logger,
) (ctrl.Manager, error) {
	ctx, cancel := context.WithTimeout(ctx, awayPatience)
	defer cancel()
	for {
		m, err := controller.NewManager(cfg, options)
		if !isAway(err) {
			return m, err
		}
		log.WarnContext(ctx, "waiting for the API server", "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(awayInterval):
		}
	}
}

// isAway reports whether an error means that nothing serves there now.
func isAway(err error) bool {
	return utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) ||
		utilnet.IsTimeout(err) || apierrors.IsServiceUnavailable(err)
}

func addController(m ctrl.Manager, cfg *rest.Config, f flags, log *slog.Logger) error {
	keys, err := keystore.NewSecrets(cfg)
	if err != nil {
		return err
	}
	prover, rollouts := &controlplane.Prover{}, &rollout.Rollouts{}
	local, err := f.local.infrastructure()
	if err != nil {
		return err
	}
	on := infrastructures{
		"local": local, "kubeadm": f.kubeadm.infrastructure(cfg, m.GetClient(), keys, prover),
		"clusterAPI": f.clusterAPI.infrastructure(m.GetClient(), f.kubeadm.images, keys, prover),
	}
	newClient := func(ctx context.Context, uc *v1alpha1.UserCluster) (kubernetes.Interface, error) {
		plane, err := on.controlPlane(uc)
		if err != nil {
			return nil, err
		}
		cfg, err := plane.Config(ctx, "")
		if err != nil {
			return nil, fmt.Errorf("finding how to reach the cluster: %w", err)
		}
		return prover.Clients.Get(types.UID(uc.Identity()), cfg)
	}
	r := &controller.Reconciler{
		Client:       m.GetClient(),
		Keys:         keys,
		ControlPlane: on.controlPlane,
		Prove:        prover.Prove,
		Nodes:        nodesOf(on, rollouts, newClient),
		Tokens:       controller.NewLegacyTokens(newClient),
		UserCluster:  newClient,
		Publishers:   &publishers{secrets: m.GetClient(), allowed: f.allowed, log: log},
		Forgotten: func(c keystore.Cluster) {
			prover.Forget(types.UID(c.UID))
			rollouts.Forget(types.UID(c.UID))
			on.forget(c)
		},
		Also:     on.object,
		Recorder: m.GetEventRecorder("keyturn-controller"),
		Log:      log,
		Options:  f.manager.options,
		Wakes:    make(controller.Wakes),
	}
	watch := func(ctx context.Context) error { on.watch(ctx, r.Wakes.Wake); return nil }
	if err := m.Add(manager.RunnableFunc(watch)); err != nil { // only while this controller is the leader
		return fmt.Errorf("watching the clusters: %w", err)
	}
	return r.SetupWithManager(m)
}
