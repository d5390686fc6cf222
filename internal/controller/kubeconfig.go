package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
)

// KubeconfigKey is the key under which a kubeconfig Secret holds the file.
const KubeconfigKey = "value"

// KubeconfigSecret is the name of the Secret that holds the administrator's kubeconfig of a user cluster.
func KubeconfigSecret(cluster string) string { return cluster + "-kubeconfig" }

// ensureKubeconfig keeps the kubeconfig Secret as the control plane gives it.
func (r *Reconciler) ensureKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster, a controlplane.Adapter) error {
	file, err := a.AdminKubeconfig(ctx)
	if err != nil {
		return fmt.Errorf("making the kubeconfig of %s: %w", uc.Name, err)
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: KubeconfigSecret(uc.Name)}
	err = r.Client.Get(ctx, key, secret)
	switch {
	case apierrors.IsNotFound(err):
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: key.Namespace, Name: key.Name,
				Labels: map[string]string{v1alpha1.LabelCluster: uc.Name},
			},
			Data: map[string][]byte{KubeconfigKey: file},
		}
		err = r.Client.Create(ctx, secret)
	case err == nil && string(secret.Data[KubeconfigKey]) != string(file):
		secret.Data = map[string][]byte{KubeconfigKey: file}
		err = r.Client.Update(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("keeping Secret %s: %w", key, err)
	}
	return nil
}
