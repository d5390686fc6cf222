package provider

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/finalizers"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/cluster-api/util/paused"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/keyturn/keyturn/tools/capi/api/v1alpha1"
)

// clusters is the controller of LocalClusters.
type clusters struct {
	client.Client
	host *Host
}

func (c *clusters) setup(ctx context.Context, m manager.Manager) error {
	kind := v1alpha1.GroupVersion.WithKind("LocalCluster")
	return ctrl.NewControllerManagedBy(m).For(&v1alpha1.LocalCluster{}).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(
			util.ClusterToInfrastructureMapFunc(ctx, kind, m.GetClient(), &v1alpha1.LocalCluster{}))).
		Complete(c)
}

// Reconcile makes, keeps or removes the network and the load balancer of one LocalCluster.
func (c *clusters) Reconcile(ctx context.Context, request ctrl.Request) (result ctrl.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	local := &v1alpha1.LocalCluster{}
	if err := c.Get(ctx, request.NamespacedName, local); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	owner, err := util.GetOwnerCluster(ctx, c, local.ObjectMeta)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	if owner == nil && local.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil // the change that gives it an owner comes here
	}
	isPaused, changed, err := paused.EnsurePausedCondition(ctx, c, owner, local)
	if err != nil || isPaused || changed {
		return ctrl.Result{}, err
	}
	helper, err := patch.NewHelper(local, c)
	if err != nil {
		return ctrl.Result{}, err
	}
	defer func() {
		if err != nil {
			setReady(local, v1alpha1.ReasonFailed, err.Error())
		}
		err = utilerrors.NewAggregate([]error{err, c.patch(ctx, helper, local)})
	}()
	if !local.DeletionTimestamp.IsZero() {
		return c.remove(ctx, local)
	}
	return c.keep(ctx, local, helper)
}

// patch writes what changed. An object whose finalizer is gone may be gone too.
func (c *clusters) patch(ctx context.Context, helper *patch.Helper, local *v1alpha1.LocalCluster) error {
	err := helper.Patch(ctx, local, ownedConditions)
	if !local.DeletionTimestamp.IsZero() {
		err = utilerrors.FilterOut(err, apierrors.IsNotFound)
	}
	return err
}

func (c *clusters) keep(ctx context.Context, local *v1alpha1.LocalCluster, helper *patch.Helper) (ctrl.Result, error) {
	if added, err := finalizers.EnsureFinalizer(ctx, c, local, v1alpha1.ClusterFinalizer); err != nil || added {
		return ctrl.Result{}, err
	}
	unlock, err := c.host.lock()
	if err != nil {
		return ctrl.Result{}, err
	}
	defer unlock()
	if err := c.choose(ctx, local); err != nil {
		return ctrl.Result{}, err
	}
	// What is made next is found by these, so they are stored first.
	if err := helper.Patch(ctx, local, ownedConditions); err != nil {
		return ctrl.Result{}, err
	}
	host, err := c.host.open(local)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := host.StartNetwork(ctx); err != nil {
		return ctrl.Result{}, err
	}
	endpoint, err := netip.ParseAddrPort(host.Endpoint())
	if err != nil {
		return ctrl.Result{}, err
	}
	local.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: endpoint.Addr().String(), Port: int32(endpoint.Port())}
	local.Status.Initialization.Provisioned = ptr.To(true)
	local.Status.FailureDomains = nil
	for _, name := range local.Spec.FailureDomains {
		local.Status.FailureDomains = append(local.Status.FailureDomains,
			clusterv1.FailureDomain{Name: name, ControlPlane: ptr.To(true)})
	}
	setReady(local, v1alpha1.ReasonReady, "")
	return ctrl.Result{RequeueAfter: settledInterval}, nil
}

// choose gives a new LocalCluster its id and its network.
func (c *clusters) choose(ctx context.Context, local *v1alpha1.LocalCluster) error {
	if local.Spec.ID == "" {
		local.Spec.ID = string(local.UID)
	}
	if local.Spec.Network != "" {
		return nil
	}
	list := &v1alpha1.LocalClusterList{}
	if err := c.List(ctx, list); err != nil {
		return err
	}
	free, err := c.host.freeNetwork(list.Items)
	if err != nil {
		return err
	}
	local.Spec.Network = free.String()
	return nil
}

// remove removes a LocalCluster from the host once no LocalMachine is left.
func (c *clusters) remove(ctx context.Context, local *v1alpha1.LocalCluster) (ctrl.Result, error) {
	left := &v1alpha1.LocalMachineList{}
	name := local.Labels[clusterv1.ClusterNameLabel]
	err := c.List(ctx, left, client.InNamespace(local.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: name})
	if err != nil {
		return ctrl.Result{}, err
	}
	if len(left.Items) > 0 {
		setReady(local, v1alpha1.ReasonDeleting, fmt.Sprintf("waiting for %d machines to be deleted", len(left.Items)))
		return ctrl.Result{RequeueAfter: busyInterval}, nil
	}
	if local.Spec.ID != "" {
		if err := c.removeFromHost(ctx, local); err != nil {
			return ctrl.Result{}, err
		}
	}
	controllerutil.RemoveFinalizer(local, v1alpha1.ClusterFinalizer)
	return ctrl.Result{}, nil
}

func (c *clusters) removeFromHost(ctx context.Context, local *v1alpha1.LocalCluster) error {
	unlock, err := c.host.lock()
	if err != nil {
		return err
	}
	defer unlock()
	host, err := c.host.open(local)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return host.Delete(ctx)
}
