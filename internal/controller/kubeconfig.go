package controller

import (
	"bytes"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// kubeconfig is what a round found out about the kubeconfig Secret.
type kubeconfig struct {
	// foreign says in words why the Secret is not the cluster's, and what to do; empty when it is.
	foreign string
}

func setKubeconfigCondition(uc *v1alpha1.UserCluster, k *kubeconfig) {
	switch {
	case k == nil:
	case k.foreign != "":
		setCondition(uc, v1alpha1.ConditionKubeconfig, false, v1alpha1.ReasonSecretNotOurs, k.foreign)
	default:
		setCondition(uc, v1alpha1.ConditionKubeconfig, true, v1alpha1.ReasonKubeconfigWritten,
			"Secret "+v1alpha1.KubeconfigSecretName(uc.Name)+" holds the administrator's kubeconfig")
	}
}

// ensureKubeconfig keeps the kubeconfig Secret as the control plane gives it. Other tools use its name too: a Secret
// that is not the cluster's is left alone, and the status says so. The cluster works without it.
func (r *Reconciler) ensureKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster) (*kubeconfig, error) {
	file, err := r.ControlPlane.AdminKubeconfig(ctx, uc)
	if err != nil {
		return nil, fmt.Errorf("making the kubeconfig of %s: %w", uc.Name, err)
	}
	wanted := kubeconfigSecret(uc, file)
	key := client.ObjectKeyFromObject(wanted)
	found := &corev1.Secret{}
	err = r.Client.Get(ctx, key, found)
	switch {
	case apierrors.IsNotFound(err):
		err = r.Client.Create(ctx, wanted)
	case err != nil:
	case !ofCluster(found, uc, wanted.Type):
		return &kubeconfig{foreign: fmt.Sprintf("Secret %s belongs to somebody else: it has not the type %s and the UID of "+
			"this cluster in its label %s; delete it if nobody needs it, and Keyturn writes the kubeconfig there",
			key, wanted.Type, v1alpha1.LabelClusterUID)}, nil
	case !bytes.Equal(found.Data[v1alpha1.KubeconfigKey], file):
		found.Data = wanted.Data
		err = r.Client.Update(ctx, found)
	}
	if err != nil {
		return nil, fmt.Errorf("keeping Secret %s: %w", key, err)
	}
	return &kubeconfig{}, nil
}

func kubeconfigSecret(uc *v1alpha1.UserCluster, file []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: uc.Namespace, Name: v1alpha1.KubeconfigSecretName(uc.Name),
			Labels: map[string]string{v1alpha1.LabelCluster: uc.Name, v1alpha1.LabelClusterUID: string(uc.UID)},
		},
		Type: v1alpha1.SecretTypeKubeconfig,
		Data: map[string][]byte{v1alpha1.KubeconfigKey: file},
	}
}

// ofCluster reports whether a Secret has the type and both labels of a Secret that was made for the cluster.
func ofCluster(s *corev1.Secret, uc *v1alpha1.UserCluster, kind corev1.SecretType) bool {
	return s.Type == kind && s.Labels[v1alpha1.LabelCluster] == uc.Name &&
		s.Labels[v1alpha1.LabelClusterUID] == string(uc.UID)
}

// deleteKubeconfig deletes the kubeconfig Secret as it was read, if it is the cluster's.
func (r *Reconciler) deleteKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster) error {
	secret := kubeconfigSecret(uc, nil)
	key := client.ObjectKeyFromObject(secret)
	err := r.Client.Get(ctx, key, secret)
	if err == nil && ofCluster(secret, uc, v1alpha1.SecretTypeKubeconfig) {
		err = r.Client.Delete(ctx, secret, asRead(secret))
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting Secret %s: %w", key, err)
	}
	return nil
}

// asRead lets only this very object be deleted, and only as it is.
func asRead(o client.Object) client.Preconditions {
	uid, version := o.GetUID(), o.GetResourceVersion()
	return client.Preconditions{UID: &uid, ResourceVersion: &version}
}
