package controllercmd

import (
	"context"
	"errors"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
)

// infrastructure opens clusters of one kind.
type infrastructure struct {
	controlPlane func(*v1alpha1.UserCluster) (controlplane.Adapter, error)
	// nodes opens the machines of a cluster; the zero value if Keyturn neither made them nor makes another system
	// replace them.
	nodes func(*v1alpha1.UserCluster) (machines, error)
	// watch calls wake for each cluster of which something has died or started, until ctx ends; nil: nothing does.
	watch func(ctx context.Context, wake func(context.Context, types.NamespacedName))
	// object returns another object that the events of a cluster are about, or nil. It may be nil.
	object func(*v1alpha1.UserCluster) runtime.Object
	// forget drops what is remembered about a cluster that is gone. It may be nil.
	forget func(keystore.Cluster)
}

// machines are the machines of one cluster.
type machines struct {
	pools    []v1alpha1.NodePool
	machines nodes.Machines
	refresh  nodes.Refresher
	// roll makes another system replace the nodes.
	roll nodes.Roller
}

// infrastructures are the infrastructures that a controller serves, by the name of the member of spec.infrastructure.
type infrastructures map[string]infrastructure

// errUnserved is why a cluster waits whose infrastructure this version does not know.
var errUnserved = errors.New("its infrastructure is not served by this controller, which serves " +
	"spec.infrastructure.local, kubeadm and clusterAPI")

func (i infrastructures) of(uc *v1alpha1.UserCluster) (infrastructure, error) {
	on, ok := i[uc.Spec.Infrastructure.Name()]
	if !ok {
		return infrastructure{}, errUnserved
	}
	return on, nil
}

func (i infrastructures) controlPlane(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
	on, err := i.of(uc)
	if err != nil {
		return nil, err
	}
	return on.controlPlane(uc)
}

func (i infrastructures) nodes(uc *v1alpha1.UserCluster) (machines, error) {
	on, err := i.of(uc)
	if err != nil {
		return machines{}, err
	}
	return on.nodes(uc)
}

// object returns another object that the events of a cluster are about; nil if there is none.
func (i infrastructures) object(uc *v1alpha1.UserCluster) runtime.Object {
	if on, err := i.of(uc); err == nil && on.object != nil {
		return on.object(uc)
	}
	return nil
}

// watch wakes clusters of all infrastructures until ctx ends.
func (i infrastructures) watch(ctx context.Context, wake func(context.Context, types.NamespacedName)) {
	var wg sync.WaitGroup
	for _, on := range i {
		if on.watch != nil {
			wg.Go(func() { on.watch(ctx, wake) })
		}
	}
	wg.Wait()
}

func (i infrastructures) forget(c keystore.Cluster) {
	for _, on := range i {
		if on.forget != nil {
			on.forget(c)
		}
	}
}
