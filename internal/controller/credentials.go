package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// holdCredentials keeps Secret NAME-gke-connect, which gkectl makes before the cluster, until the cluster has left its
// fleet: a deletion of the namespace takes Secrets away first, and without this one the membership would stay. The
// Secret gets the UID of the cluster and our finalizer, before anything is registered. changed: it was written now.
func (r *Reconciler) holdCredentials(ctx context.Context, uc *v1alpha1.UserCluster) (changed bool, err error) {
	if uc.Spec.GKEConnect == nil {
		return false, nil
	}
	secret, err := r.credentials(ctx, uc)
	if err != nil || secret == nil {
		return false, err
	}
	held := secret.DeepCopy()
	if uc.Spec.GKEConnect.CredentialsSecret == secret.Name {
		hold(held, uc)
	} else {
		controllerutil.RemoveFinalizer(held, v1alpha1.Finalizer)
	}
	if equality.Semantic.DeepEqual(held, secret) {
		return false, nil
	}
	if err := r.Client.Update(ctx, held); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("holding Secret %s: %w", client.ObjectKeyFromObject(held), err)
	}
	return true, nil
}

// hold marks a Secret as the cluster's. The API server takes no new finalizer for one that is being deleted.
func hold(secret *corev1.Secret, uc *v1alpha1.UserCluster) {
	secret.Labels[v1alpha1.LabelClusterUID] = string(uc.UID)
	if secret.DeletionTimestamp.IsZero() {
		controllerutil.AddFinalizer(secret, v1alpha1.Finalizer)
	}
}

// credentials reads Secret NAME-gke-connect; nil if there is none, or one that gkectl has not made for this cluster.
func (r *Reconciler) credentials(ctx context.Context, uc *v1alpha1.UserCluster) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: v1alpha1.CredentialsSecretName(uc.Name)}
	if err := r.Client.Get(ctx, key, secret); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("reading Secret %s: %w", key, err)
	}
	uid, marked := secret.Labels[v1alpha1.LabelClusterUID]
	named := secret.Type == corev1.SecretTypeOpaque && secret.Labels[v1alpha1.LabelCluster] == uc.Name
	if !named || marked && uid != string(uc.UID) {
		return nil, nil
	}
	return secret, nil
}

// deleteCredentials deletes Secret NAME-gke-connect, if it is the cluster's. If we crash between both writes, the next
// round finds it without our finalizer and deletes it.
func (r *Reconciler) deleteCredentials(ctx context.Context, uc *v1alpha1.UserCluster) error {
	secret, err := r.credentials(ctx, uc)
	if err != nil || secret == nil {
		return err
	}
	if controllerutil.RemoveFinalizer(secret, v1alpha1.Finalizer) {
		err = r.Client.Update(ctx, secret)
	}
	if err == nil {
		err = r.Client.Delete(ctx, secret, asRead(secret))
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}
