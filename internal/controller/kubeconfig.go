package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// KubeconfigKey is the key under which a kubeconfig Secret holds the file.
const KubeconfigKey = "value"

// KubeconfigSecret is the name of the Secret that holds the administrator's kubeconfig of a user cluster.
func KubeconfigSecret(cluster string) string { return cluster + "-kubeconfig" }

// gatherKubeconfig compares the stored kubeconfig with what the control plane gives, once that exists.
func (r *Reconciler) gatherKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) error {
	if len(o.Servers) == 0 {
		return nil
	}
	file, err := o.adapter.AdminKubeconfig(ctx)
	if err != nil {
		return fmt.Errorf("making the kubeconfig of %s: %w", uc.Name, err)
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: KubeconfigSecret(uc.Name)}
	if err := client.IgnoreNotFound(r.Client.Get(ctx, key, secret)); err != nil {
		return fmt.Errorf("reading Secret %s: %w", key, err)
	}
	o.kubeconfig, o.KubeconfigDue = file, string(secret.Data[KubeconfigKey]) != string(file)
	return nil
}

// writeKubeconfig stores the administrator's kubeconfig.
func (r *Reconciler) writeKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster, file []byte) error {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: KubeconfigSecret(uc.Name)}
	err := r.Client.Get(ctx, key, secret)
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
	case err == nil:
		secret.Data = map[string][]byte{KubeconfigKey: file}
		err = r.Client.Update(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("storing Secret %s: %w", key, err)
	}
	return nil
}
