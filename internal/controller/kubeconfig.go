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

// kubeconfig is what a round observed about the kubeconfig Secret.
type kubeconfig struct {
	// foreign is why the Secret is not the cluster's, and what to do; empty if it is.
	foreign string
	// pending is why the Secret does not hold the kubeconfig, if it is the cluster's.
	pending string
	// wanted is the desired Secret, and found the Secret as read; nil if the cluster has none.
	wanted, found *corev1.Secret
}

func setKubeconfigCondition(uc *v1alpha1.UserCluster, k *kubeconfig, now metav1.Time) {
	switch {
	case k == nil:
	case k.pending != "":
		setCondition(uc, v1alpha1.ConditionKubeconfig, false, v1alpha1.ReasonKubeconfigPending, k.pending, now)
	case k.foreign != "":
		setCondition(uc, v1alpha1.ConditionKubeconfig, false, v1alpha1.ReasonSecretNotOurs, k.foreign, now)
	default:
		setCondition(uc, v1alpha1.ConditionKubeconfig, true, v1alpha1.ReasonKubeconfigWritten,
			"Secret "+v1alpha1.KubeconfigSecretName(uc.Name)+" holds the administrator's kubeconfig", now)
	}
}

// gatherKubeconfig compares the kubeconfig Secret with what the control plane provides, once that exists. Other tools
// use the same name: a Secret that is not the cluster's is not touched, and the status names it. The cluster works
// without it. If the kubeconfig cannot be made, the round continues, since converging the control plane may fix that.
func (r *Reconciler) gatherKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	if len(o.Servers) == 0 || o.Adopted {
		return // administrators of an adopted cluster have one
	}
	file, err := o.adapter.AdminKubeconfig(ctx)
	if err != nil {
		o.kubeconfig = &kubeconfig{pending: "making the kubeconfig: " + err.Error()}
		return
	}
	k := &kubeconfig{wanted: kubeconfigSecret(uc, file)}
	key := client.ObjectKeyFromObject(k.wanted)
	found := &corev1.Secret{}
	err = r.Client.Get(ctx, key, found)
	switch {
	case apierrors.IsNotFound(err):
		o.KubeconfigDue = true
	case err != nil:
		k.pending = fmt.Sprintf("reading Secret %s: %v", key, err)
	case !ofCluster(found, uc, k.wanted.Type):
		k.foreign = fmt.Sprintf("Keyturn did not create Secret %s: it lacks the type %s, or the UID of "+
			"this cluster in its label %s; delete it if nobody needs it, and Keyturn writes the kubeconfig there",
			key, k.wanted.Type, v1alpha1.LabelClusterUID)
	default:
		k.found = found
		o.KubeconfigDue = !bytes.Equal(found.Data[v1alpha1.KubeconfigKey], file)
	}
	if o.KubeconfigDue {
		k.pending = fmt.Sprintf("Secret %s does not hold the administrator's kubeconfig yet", key)
	}
	o.kubeconfig = k
}

// writeKubeconfig stores the administrator's kubeconfig, as it was found to be due.
func (r *Reconciler) writeKubeconfig(ctx context.Context, k *kubeconfig) error {
	var err error
	if k.found == nil {
		err = r.Client.Create(ctx, k.wanted)
	} else {
		k.found.Data = k.wanted.Data
		err = r.Client.Update(ctx, k.found)
	}
	if err != nil {
		return fmt.Errorf("storing Secret %s: %w", client.ObjectKeyFromObject(k.wanted), err)
	}
	return nil
}

func kubeconfigSecret(uc *v1alpha1.UserCluster, file []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: uc.Namespace, Name: v1alpha1.KubeconfigSecretName(uc.Name),
			Labels: map[string]string{v1alpha1.LabelCluster: uc.Name, v1alpha1.LabelClusterUID: uc.Identity()},
		},
		Type: v1alpha1.SecretTypeKubeconfig,
		Data: map[string][]byte{v1alpha1.KubeconfigKey: file},
	}
}

// ofCluster reports whether a Secret has the type and both labels of a Secret of the cluster.
func ofCluster(s *corev1.Secret, uc *v1alpha1.UserCluster, kind corev1.SecretType) bool {
	return s.Type == kind && s.Labels[v1alpha1.LabelCluster] == uc.Name &&
		s.Labels[v1alpha1.LabelClusterUID] == uc.Identity()
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

// asRead makes a deletion delete only this object, and only if it has not changed.
func asRead(o client.Object) client.Preconditions {
	uid, version := o.GetUID(), o.GetResourceVersion()
	return client.Preconditions{UID: &uid, ResourceVersion: &version}
}
