package serve

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/local/machines"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/remote"
)

// Server serves the adapters of user clusters on this host. The caller sets its credentials.
func Server(h *plane.Host) *remote.Server {
	return &remote.Server{
		ControlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
			if err := checkLocal(uc); err != nil {
				return nil, err
			}
			return h.ControlPlane(uc), nil
		},
		Machines: func(uc *v1alpha1.UserCluster) (remote.Machines, error) {
			if err := checkLocal(uc); err != nil {
				return nil, err
			}
			m, err := machines.Of(h, uc)
			if err != nil {
				return nil, err // not a nil *Machines
			}
			return m, nil
		},
		Watch: func(ctx context.Context, wake func(context.Context, types.NamespacedName)) error {
			return watch(ctx, h, wake)
		},
		Log: h.Log,
	}
}

// checkLocal refuses a cluster of another infrastructure.
func checkLocal(uc *v1alpha1.UserCluster) error {
	if uc.Spec.Infrastructure.Local == nil {
		return fmt.Errorf("cluster %s is not local", uc.Name)
	}
	return nil
}
