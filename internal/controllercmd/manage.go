package controllercmd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local"
	"github.com/keyturn/keyturn/internal/nodes/rollout"
)

// adminInterval is how often the admin cluster's processes are looked at.
const adminInterval = time.Second

// keepAdmin starts again what dies of the admin cluster. It runs beside the manager, which needs that cluster to start.
func keepAdmin(ctx context.Context, host *local.Host, log *slog.Logger) {
	ticker := time.NewTicker(adminInterval)
	defer ticker.Stop()
	news := adminNews{log: log}
	for {
		news.tell(host.EnsureAdmin(ctx))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// adminNews logs what is the matter with the admin cluster when that changes, and not each time that it is looked at.
type adminNews struct {
	log  *slog.Logger
	last string
}

func (n *adminNews) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == n.last:
		return
	case text == "":
		n.log.Info("the processes of the admin cluster can be started again")
	default:
		n.log.Error("the admin cluster is not kept up", "error", text)
	}
	n.last = text
}

func manage(ctx context.Context, f flags, cfg *rest.Config, host *local.Host, log *slog.Logger) error {
	scheme, err := controller.NewScheme()
	if err != nil {
		return err
	}
	cfg = adminConfig(cfg)
	m, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                 scheme,
		Metrics:                server.Options{BindAddress: f.metrics},
		HealthProbeBindAddress: f.health,
		// Secrets hold private keys: they are read when needed and kept in no cache.
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	if err := addController(m, cfg, host, f.allowed, log); err != nil {
		return err
	}
	if err := m.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding /healthz: %w", err)
	}
	if err := m.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding /readyz: %w", err)
	}
	return m.Start(ctx)
}

func addController(m ctrl.Manager, cfg *rest.Config, host *local.Host, may allowed, log *slog.Logger) error {
	keys, err := keystore.NewSecrets(cfg)
	if err != nil {
		return err
	}
	openPlane := func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) { return host.ControlPlane(uc), nil }
	prover, rollouts := &controlplane.Prover{}, &rollout.Rollouts{}
	newClient := func(ctx context.Context, uc *v1alpha1.UserCluster) (kubernetes.Interface, error) {
		cfg, err := host.ControlPlane(uc).Config(ctx, "")
		if err != nil {
			return nil, fmt.Errorf("finding how to reach the cluster: %w", err)
		}
		return prover.Clients.Get(uc.UID, cfg)
	}
	r := &controller.Reconciler{
		Client:       m.GetClient(),
		Keys:         keys,
		ControlPlane: openPlane,
		Prove:        prover.Prove,
		Nodes:        nodesOf(host, rollouts, newClient),
		Tokens:       controller.NewLegacyTokens(newClient),
		Publishers:   &publishers{secrets: m.GetClient(), allowed: may, log: log},
		Forgotten: func(c keystore.Cluster) {
			prover.Clients.Forget(types.UID(c.UID))
			rollouts.Forget(types.UID(c.UID))
		},
		Recorder: m.GetEventRecorder("keyturn-controller"),
		Log:      log,
	}
	return r.SetupWithManager(m)
}
