package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// credential is a Secret that gkectl creates before a cluster, and with which the controller reaches its fleet or the
// cluster.
type credential struct {
	name string
	// named means that the spec names it.
	named bool
}

// credentialsOf returns the credentials that a cluster may have: of its fleet and, if it is adopted, of the cluster
// itself.
func credentialsOf(uc *v1alpha1.UserCluster) []credential {
	fleet := credential{name: v1alpha1.CredentialsSecretName(uc.Name)}
	if g := uc.Spec.GKEConnect; g != nil {
		fleet.named = g.CredentialsSecret == fleet.name
	}
	all := []credential{fleet}
	name := v1alpha1.AdoptedKubeconfigSecretName(uc.Name)
	if k := uc.Spec.Infrastructure.Kubeadm; k != nil && k.KubeconfigSecret == name {
		all = append(all, credential{name: name, named: true})
	}
	return all
}

// holdCredentials keeps the Secrets that gkectl created until the cluster has left its fleet and is released. Deleting
// the namespace would delete Secrets first. Without them, the membership would stay, and the cluster could not be
// reached. A Secret gets the UID of the cluster and our finalizer before anything is registered. changed means that one
// was written now.
func (r *Reconciler) holdCredentials(ctx context.Context, uc *v1alpha1.UserCluster) (changed bool, err error) {
	for _, c := range credentialsOf(uc) {
		if !c.named && uc.Spec.GKEConnect == nil {
			continue // gkectl created none
		}
		if changed, err := r.holdCredential(ctx, uc, c); err != nil || changed {
			return changed, err
		}
	}
	return false, nil
}

func (r *Reconciler) holdCredential(
	ctx context.Context, uc *v1alpha1.UserCluster, c credential,
) (changed bool, err error) {
	secret, err := r.credential(ctx, uc, c.name)
	if err != nil || secret == nil {
		return false, err
	}
	held := secret.DeepCopy()
	if c.named {
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

// hold marks a Secret as the cluster's. The API server accepts no new finalizer for one that is being deleted.
func hold(secret *corev1.Secret, uc *v1alpha1.UserCluster) {
	secret.Labels[v1alpha1.LabelClusterUID] = uc.Identity()
	if uc.Moves() {
		secret.Labels[v1alpha1.LabelMove] = ""
	}
	if secret.DeletionTimestamp.IsZero() {
		controllerutil.AddFinalizer(secret, v1alpha1.Finalizer)
	}
}

// credential reads a Secret; nil if there is none, or if gkectl did not create it for this cluster.
func (r *Reconciler) credential(ctx context.Context, uc *v1alpha1.UserCluster, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: name}
	if err := r.Client.Get(ctx, key, secret); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("reading Secret %s: %w", key, err)
	}
	uid, marked := secret.Labels[v1alpha1.LabelClusterUID]
	named := secret.Type == corev1.SecretTypeOpaque && secret.Labels[v1alpha1.LabelCluster] == uc.Name
	if !named || marked && uid != uc.Identity() {
		return nil, nil
	}
	return secret, nil
}

// deleteCredentials deletes the Secrets that gkectl created for the cluster.
func (r *Reconciler) deleteCredentials(ctx context.Context, uc *v1alpha1.UserCluster) (err error) {
	for _, c := range credentialsOf(uc) {
		err = errors.Join(err, r.deleteCredential(ctx, uc, c.name))
	}
	return err
}

// deleteCredential deletes a Secret, if it is the cluster's. After a crash between both writes, the next round finds it
// without our finalizer and deletes it.
func (r *Reconciler) deleteCredential(ctx context.Context, uc *v1alpha1.UserCluster, name string) error {
	secret, err := r.credential(ctx, uc, name)
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
