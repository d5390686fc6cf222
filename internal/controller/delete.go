package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
	if err := r.unpublish(ctx, uc); err != nil {
		return ctrl.Result{}, r.patchError(ctx, uc, err)
	}
	if err := r.deleteKeys(ctx, uc); err != nil {
		return ctrl.Result{}, err
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
	return errors.Join(r.deleteSecret(ctx, uc, KubeconfigSecret(uc.Name)), r.deleteCredentials(ctx, uc))
}

// deleteCredentials deletes those of the fleet, which gkectl made for this cluster.
func (r *Reconciler) deleteCredentials(ctx context.Context, uc *v1alpha1.UserCluster) error {
	if uc.Spec.GKEConnect == nil || uc.Spec.GKEConnect.CredentialsSecret != v1alpha1.CredentialsSecretName(uc.Name) {
		return nil
	}
	return r.deleteSecret(ctx, uc, uc.Spec.GKEConnect.CredentialsSecret)
}

func (r *Reconciler) deleteSecret(ctx context.Context, uc *v1alpha1.UserCluster, name string) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: uc.Namespace, Name: name}}
	if err := client.IgnoreNotFound(r.Client.Delete(ctx, secret)); err != nil {
		return fmt.Errorf("deleting Secret %s/%s: %w", uc.Namespace, name, err)
	}
	return nil
}
