package kubeadm

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// uploadName is the Secret in namespace kube-system with the keys and certificates that kubeadm init phase upload-certs
// encrypts for control-plane nodes that join. kubeadm deletes it after two hours.
const uploadName = "kubeadm-certs"

// dropUpload deletes that Secret. It holds the keys of the moment in which it was made, and nobody else can read which.
// An API server that starts with keys from before the last step refuses tokens that are in use, or signs with a key that
// others refuse. Deleted before each change of keys, it is never older than that. kubeadm join then fails, and names the
// Secret.
func (r *reach) dropUpload(ctx context.Context) error {
	client, err := r.client()
	if err != nil {
		return err
	}
	err = client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, uploadName, metav1.DeleteOptions{})
	if err := ignoreGone(err); err != nil {
		return fmt.Errorf("deleting Secret %s/%s, whose keys are about to be old: %w", metav1.NamespaceSystem, uploadName, err)
	}
	return nil
}
