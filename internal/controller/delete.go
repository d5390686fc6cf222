package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
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
	if err := r.leaveVerifiers(ctx, uc); err != nil {
		return ctrl.Result{}, r.patchError(ctx, uc, err)
	}
	if err := r.deleteSecrets(ctx, uc); err != nil {
		return ctrl.Result{}, r.patchError(ctx, uc, err)
	}
	r.legacy.forget(uc)
	r.refusals.forget(uc)
	r.Tokens.Forget(uc)
	forgetMetrics(uc)
	before := uc.DeepCopy()
	controllerutil.RemoveFinalizer(uc, v1alpha1.Finalizer)
	return ctrl.Result{}, r.patchFinalizer(ctx, before, uc)
}

func (r *Reconciler) deleteInfrastructure(ctx context.Context, uc *v1alpha1.UserCluster) (gone bool, err error) {
	if gone, err = r.deleteNodes(ctx, uc); err != nil || !gone {
		return false, err
	}
	a, err := r.ControlPlane(uc)
	if err != nil {
		return false, fmt.Errorf("opening the control plane of %s: %w", uc.Name, err)
	}
	return a.Delete(ctx)
}

// leaveVerifiers removes what is published of a cluster from every destination outside it. An annotation lets the rest of
// the deletion go on without it: a project or a bucket that is gone for good must not keep the cluster.
func (r *Reconciler) leaveVerifiers(ctx context.Context, uc *v1alpha1.UserCluster) error {
	err := r.unpublish(ctx, uc)
	if err == nil {
		return nil
	}
	if uc.Annotations[v1alpha1.AnnotationLeavePublished] == "" {
		return fmt.Errorf("%w; to delete the cluster and leave that behind, annotate it with %s=REASON",
			err, v1alpha1.AnnotationLeavePublished)
	}
	r.event(uc, corev1.EventTypeWarning, "PublishedKeysLeft", err.Error())
	r.Log.WarnContext(ctx, "published keys are left", "cluster", uc.Name, "error", err)
	r.publications.forget(uc)
	return nil
}

// deleteSecrets deletes every key version that is stored for this very cluster, readable or not, the kubeconfig, and
// the credentials of the fleet, which unpublish no longer needs.
func (r *Reconciler) deleteSecrets(ctx context.Context, uc *v1alpha1.UserCluster) error {
	if err := r.Keys.DeleteAll(ctx, clusterOf(uc)); err != nil {
		return fmt.Errorf("deleting the keys of %s: %w", uc.Name, err)
	}
	return errors.Join(r.deleteKubeconfig(ctx, uc), r.deleteCredentials(ctx, uc))
}
