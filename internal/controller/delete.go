package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// delete removes a cluster in the order of the planner. The finalizer goes last, so after a crash anywhere the
// UserCluster is still there to try again. Each round observes again what is gone.
func (r *Reconciler) delete(ctx context.Context, uc *v1alpha1.UserCluster) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(uc, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	work, cancel := context.WithTimeout(ctx, r.Options.withDefaults().RoundTimeout)
	defer cancel()
	left := rotation.Removal{Machines: true, ControlPlane: true, Publications: true, Keys: true, Secrets: true}
	if uc.IsMoved() {
		left = rotation.Removal{} // all of it belongs to the UserCluster in the other admin cluster
	}
	for kind := rotation.PlanRemoval(left); kind != rotation.RemoveFinalizer; kind = rotation.PlanRemoval(left) {
		var gone bool
		var err error
		r.rounds.wait(func() { gone, err = r.remove(work, uc, kind) })
		if err != nil {
			return ctrl.Result{}, r.patchError(ctx, uc, err)
		}
		if !gone {
			return ctrl.Result{RequeueAfter: afterWaiting}, nil
		}
		left = left.Without(kind)
	}
	r.forget(keystore.ClusterOf(uc))
	before := uc.DeepCopy()
	controllerutil.RemoveFinalizer(uc, v1alpha1.Finalizer)
	return ctrl.Result{}, r.patchMetadata(ctx, before, uc)
}

// remove does one write of a deletion, and reports whether nothing of its kind is left.
func (r *Reconciler) remove(
	ctx context.Context, uc *v1alpha1.UserCluster, kind rotation.RemovalKind,
) (gone bool, err error) {
	switch kind {
	case rotation.RemoveMachines:
		return r.deleteNodes(ctx, uc)
	case rotation.RemoveControlPlane:
		a, err := r.ControlPlane(uc)
		if err != nil {
			return false, fmt.Errorf("opening the control plane of %s: %w", uc.Name, err)
		}
		return r.deleteControlPlane(ctx, uc, a)
	case rotation.RemovePublications:
		err = r.leaveVerifiers(ctx, uc)
	case rotation.RemoveKeys:
		// This includes key versions that cannot be read.
		if err = r.Keys.DeleteAll(ctx, keystore.ClusterOf(uc)); err != nil {
			err = fmt.Errorf("deleting the keys of %s: %w", uc.Name, err)
		}
	case rotation.RemoveSecrets:
		err = errors.Join(r.deleteKubeconfig(ctx, uc), r.deleteCredentials(ctx, uc))
	default:
		err = fmt.Errorf("unknown removal %q", kind)
	}
	return err == nil, err
}

// leavePatience is how long a cluster that is left may take to end what Keyturn runs there.
const leavePatience = 10 * time.Second

// deleteControlPlane removes a control plane or, if Keyturn did not create it, releases it. With an annotation, the
// deletion continues even if that fails, so that a cluster that is gone for good does not keep its UserCluster.
func (r *Reconciler) deleteControlPlane(
	ctx context.Context, uc *v1alpha1.UserCluster, a controlplane.Adapter,
) (gone bool, err error) {
	gone, err = a.Delete(ctx)
	if err == nil || !uc.Spec.Infrastructure.Adopted() {
		return gone, err
	}
	if uc.Annotations[v1alpha1.AnnotationLeaveCluster] == "" {
		return false, fmt.Errorf("releasing the cluster: %w; to delete the UserCluster and leave its cluster unchanged, "+
			"annotate it with %s=REASON", err, v1alpha1.AnnotationLeaveCluster)
	}
	r.event(uc, corev1.EventTypeWarning, "ClusterNotReleased", actionDelete, hint.Line(err))
	r.Log.WarnContext(ctx, "leaving a cluster without releasing it", "cluster", uc.Name, "error", err)
	if l, ok := a.(controlplane.Leaver); ok {
		// It may be in reach: what cannot be released there can be ended.
		ctx, cancel := context.WithTimeout(ctx, leavePatience)
		defer cancel()
		if err := l.Leave(ctx); err != nil {
			r.Log.WarnContext(ctx, "leaving what Keyturn runs in a cluster", "cluster", uc.Name, "error", err)
		}
	}
	return true, nil
}

// leaveVerifiers removes what is published of a cluster from every destination outside it. With an annotation, the
// deletion continues even if that fails, so that a project or bucket that is gone for good does not keep the cluster.
func (r *Reconciler) leaveVerifiers(ctx context.Context, uc *v1alpha1.UserCluster) error {
	left, err := r.unpublish(ctx, uc)
	if err != nil && uc.Annotations[v1alpha1.AnnotationLeavePublished] == "" {
		return fmt.Errorf("%w; to delete the cluster and leave that behind, annotate it with %s=REASON",
			err, v1alpha1.AnnotationLeavePublished)
	}
	for _, p := range left {
		err = errors.Join(err, fmt.Errorf("keys are left at %s, waiting for %s", p.Name, p.WaitingFor))
	}
	if err != nil {
		r.event(uc, corev1.EventTypeWarning, "PublishedKeysLeft", actionDelete, hint.Line(err))
		r.Log.WarnContext(ctx, "leaving published keys behind", "cluster", uc.Name, "error", err)
	}
	return nil
}
