package kubeadm

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/rotation"
)

// uploadName is the Secret in namespace kube-system with the keys and certificates that kubeadm init phase upload-certs
// encrypts for control-plane nodes that join. kubeadm deletes it after two hours.
const uploadName = "kubeadm-certs"

// outdatesUpload reports whether these keys are the first of a step in which an API server must not start with keys
// from before the last step: it would refuse tokens that are in use, or sign with a key that others refuse.
func (v *view) outdatesUpload(keys rotation.Keys) bool {
	publishing := len(keys.Verify) == 2 && keys.Sign == keys.Verify[0]
	return !publishing && !slices.ContainsFunc(v.staying(), func(n *node) bool { return n.configured.Stage() >= keys.Stage() })
}

// dropUpload deletes that Secret. It holds the keys of the moment in which it was made, encrypted, so nobody knows
// which. kubeadm join then fails, and names the Secret.
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
