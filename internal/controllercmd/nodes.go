package controllercmd

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/rollout"
)

// nodesOf returns a function that opens the nodes of a cluster, as a rollout over its machines.
func nodesOf(
	on infrastructures, rollouts *rollout.Rollouts,
	newClient func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error),
) func(*v1alpha1.UserCluster) (nodes.Adapter, error) {
	return func(uc *v1alpha1.UserCluster) (nodes.Adapter, error) {
		m, err := on.nodes(uc)
		if err != nil {
			return nil, err
		}
		key := uc.Spec.KSASigningKey
		return rollouts.Open(rollout.Cluster{
			Name: uc.Name, UID: types.UID(uc.Identity()), Pools: m.pools,
			NodeRefresh: uc.Spec.NodeRefresh(), TokenReload: time.Duration(key.TokenReloadSeconds) * time.Second,
			Machines: m.machines, Refresher: m.refresh, Roller: m.roll,
			Client: func(ctx context.Context) (kubernetes.Interface, error) { return newClient(ctx, uc) },
		}), nil
	}
}
