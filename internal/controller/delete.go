package controller

import (
	"context"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// delete removes a cluster from the outside in: machines, control plane, fleet, keys; the finalizer goes last, so
// that a crash anywhere leaves the UserCluster to try again.
func (r *Reconciler) delete(ctx context.Context, uc *v1alpha1.UserCluster) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(uc, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if gone, err := r.deleteInfrastructure(ctx, uc); err != nil || !gone {
		return ctrl.Result{RequeueAfter: afterWaiting}, err
	}
	if r.Fleet != nil {
		if err := r.Fleet.Unregister(ctx, uc); err != nil {
			return ctrl.Result{}, fmt.Errorf("unregistering %s: %w", uc.Name, err)
		}
	}
	if err := r.deleteKeys(ctx, uc); err != nil {
		return ctrl.Result{}, err
	}
	r.legacy.forget(uc)
	r.Tokens.Forget(uc)
	forgetMetrics(uc)
	before := uc.DeepCopy()
	controllerutil.RemoveFinalizer(uc, v1alpha1.Finalizer)
	return ctrl.Result{}, r.patchFinalizer(ctx, before, uc)
}

func (r *Reconciler) deleteInfrastructure(ctx context.Context, uc *v1alpha1.UserCluster) (gone bool, err error) {
	if gone, err = r.Nodes.Delete(ctx, uc); err != nil || !gone {
		return false, err
	}
	return r.ControlPlane.Delete(ctx, uc)
}

// deleteKeys deletes by number, which nothing but the controller may do, so that a key that cannot be read goes too.
func (r *Reconciler) deleteKeys(ctx context.Context, uc *v1alpha1.UserCluster) error {
	for version := 1; version <= int(uc.Spec.KSASigningKey.Version); version++ {
		if err := r.Keys.Delete(ctx, clusterOf(uc), version); err != nil {
			return fmt.Errorf("deleting key version %d of %s: %w", version, uc.Name, err)
		}
	}
	left, err := r.Keys.List(ctx, clusterOf(uc))
	if err != nil {
		return fmt.Errorf("listing the keys of %s: %w", uc.Name, err)
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is left of %s, whose spec knows no such version", left[0], uc.Name)
	}
	return r.deleteKubeconfig(ctx, uc)
}
