package controllercmd

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
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
)

func manage(ctx context.Context, f flags, cfg *rest.Config, log *slog.Logger) error {
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
	infrastructure, err := f.local.infrastructure()
	if err != nil {
		return err
	}
	if err := addController(m, cfg, infrastructure, f.allowed, log); err != nil {
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

func addController(m ctrl.Manager, cfg *rest.Config, on infrastructure, may allowed, log *slog.Logger) error {
	keys, err := keystore.NewSecrets(cfg)
	if err != nil {
		return err
	}
	newClient := func(ctx context.Context, uc *v1alpha1.UserCluster) (kubernetes.Interface, error) {
		plane, err := on.controlPlane(uc)
		if err != nil {
			return nil, err
		}
		return controlplane.Client(ctx, plane)
	}
	r := &controller.Reconciler{
		Client:       m.GetClient(),
		Keys:         keys,
		ControlPlane: on.controlPlane,
		Prove:        (&controlplane.Prover{}).Prove,
		Nodes:        nodesOf(on, newClient),
		Tokens:       controller.NewLegacyTokens(newClient),
		Publishers:   &publishers{secrets: m.GetClient(), allowed: may, log: log},
		Recorder:     m.GetEventRecorder("keyturn-controller"),
		Log:          log,
	}
	return r.SetupWithManager(m)
}
