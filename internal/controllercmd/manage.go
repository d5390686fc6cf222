package controllercmd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

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
	cfg = adminConfig(cfg)
	m, err := controller.NewManager(cfg, f.manager.managerOptions(f.metrics, f.health))
	if err != nil {
		return err
	}
	if err := addController(m, cfg, host, f, log); err != nil {
		return err
	}
	return m.Start(ctx)
}

func addController(m ctrl.Manager, cfg *rest.Config, host *local.Host, f flags, log *slog.Logger) error {
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
		Publishers:   &publishers{secrets: m.GetClient(), allowed: f.allowed, log: log},
		Forgotten: func(c keystore.Cluster) {
			prover.Clients.Forget(types.UID(c.UID))
			rollouts.Forget(types.UID(c.UID))
		},
		Recorder: m.GetEventRecorder("keyturn-controller"),
		Log:      log,
		Options:  f.manager.options,
		Wakes:    make(controller.Wakes),
	}
	watch := func(ctx context.Context) error { return host.Watch(ctx, r.Wakes.Wake) }
	if err := m.Add(manager.RunnableFunc(watch)); err != nil { // while this controller is the one that works
		return fmt.Errorf("watching the local clusters: %w", err)
	}
	return r.SetupWithManager(m)
}
