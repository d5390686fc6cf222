package preflight

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane/clusterapi"
)

// OfMachines finds what keeps Cluster API from replacing the machines of a user cluster, if a rotation needs that. It
// reads the admin cluster.
func OfMachines(ctx context.Context, admin client.Reader, uc *v1alpha1.UserCluster) ([]Finding, error) {
	if uc.Spec.Infrastructure.ClusterAPI == nil || uc.Spec.NodeRefresh() != v1alpha1.NodeRefreshReplace {
		return nil, nil
	}
	held, err := clusterapi.FindHeld(ctx, admin, uc)
	if err != nil {
		return nil, fmt.Errorf("reading what replaces the machines: %w", err)
	}
	var all []Finding
	for _, h := range held {
		all = append(all, find(HeldMachines, Object{Kind: h.Kind, Namespace: h.Namespace, Name: h.Name}, h.Why))
	}
	return all, nil
}
