package kubeadm

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// Access finds out how the API servers of clusters are reached. The zero value reaches none.
type Access struct {
	// Secrets reads the Secrets that UserClusters name.
	Secrets client.Reader
	// Own reaches the cluster that the controller runs in. Only the UserCluster that OwnCluster names may be that cluster:
	// otherwise whoever may write a UserCluster could change the control plane below the controller.
	Own        *rest.Config
	OwnCluster types.NamespacedName
}

// Config returns how to reach the API servers of a UserCluster, with the rights of an administrator. It uses only a
// Secret that is marked as the cluster's: otherwise the author of a UserCluster could use any kubeconfig in its
// namespace without the right to read it. An error that lasts until somebody acts is a controlplane.BlockedError.
func (a Access) Config(ctx context.Context, uc *v1alpha1.UserCluster) (*rest.Config, error) {
	name := types.NamespacedName{Namespace: uc.Namespace, Name: uc.Spec.Infrastructure.Kubeadm.KubeconfigSecret}
	if name.Name == "" {
		return a.own(uc)
	}
	secret := &corev1.Secret{}
	err := a.Secrets.Get(ctx, name, secret)
	if apierrors.IsNotFound(err) {
		return nil, controlplane.Blocked(fmt.Errorf("there is no Secret %s, which kubeadm.kubeconfigSecret names", name))
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	if !v1alpha1.IsCredential(secret, uc) {
		return nil, controlplane.Blocked(fmt.Errorf("kubeadm.kubeconfigSecret names Secret %s, which is not marked as this "+
			"cluster's and is not used: label it %s=%s; it must have the type %s and no other UserCluster as its owner",
			name, v1alpha1.LabelCluster, uc.Name, corev1.SecretTypeOpaque))
	}
	config, err := ParseKubeconfig(secret.Data[v1alpha1.KubeconfigKey])
	if err != nil {
		return nil, controlplane.Blocked(fmt.Errorf("key %q of Secret %s: %w", v1alpha1.KubeconfigKey, name, err))
	}
	return config, nil
}

// own returns how to reach the cluster of the controller, for the one UserCluster that may be it.
func (a Access) own(uc *v1alpha1.UserCluster) (*rest.Config, error) {
	self := types.NamespacedName{Namespace: uc.Namespace, Name: uc.Name}
	switch {
	case a.OwnCluster.Name == "":
		return nil, controlplane.Blocked(fmt.Errorf("kubeadm.kubeconfigSecret is empty, which means the cluster that "+
			"keyturn-controller runs in, and that was started without --own-cluster=%s", self))
	case a.OwnCluster != self:
		return nil, controlplane.Blocked(fmt.Errorf("kubeadm.kubeconfigSecret is empty, which means the cluster that "+
			"keyturn-controller runs in: its flag --own-cluster names UserCluster %s for that", a.OwnCluster))
	case a.Own == nil:
		return nil, errors.New("the cluster that keyturn-controller runs in is not known")
	}
	return rest.CopyConfig(a.Own), nil
}

// ParseKubeconfig reads a kubeconfig of an administrator: with its certificates and keys in it, and nothing else. A
// token of a service account would die with the key that is rotated.
func ParseKubeconfig(data []byte) (*rest.Config, error) {
	access, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	return access.Config(), nil
}
