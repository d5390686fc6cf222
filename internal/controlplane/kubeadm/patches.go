package kubeadm

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/hostkeys"
)

// Patches returns, by control-plane node, the patch with which `kubeadm upgrade` keeps the signer of its API server.
func Patches(ctx context.Context, client kubernetes.Interface, certificatesDir string) (map[string][]byte, error) {
	o, err := read(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("finding the API servers: %w", err)
	}
	patches := map[string][]byte{}
	for _, p := range o.of(apiServer) {
		if patches[p.Spec.NodeName], err = patchOf(p, certificatesDir); err != nil {
			return nil, fmt.Errorf("the API server on node %s: %w", p.Spec.NodeName, err)
		}
	}
	return patches, nil
}

// patchOf makes the patch from a mirror pod, which has the flags of the manifest in their order.
func patchOf(p corev1.Pod, certificatesDir string) ([]byte, error) {
	text, err := yaml.Marshal(&corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: apiServer, Namespace: p.Namespace, Annotations: p.Annotations},
		Spec:       p.Spec,
	})
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(text)
	if err != nil {
		return nil, err
	}
	public, private := keyFiles(certificatesDir)
	return m.Patch(manifest.Keys{
		Public: public, Private: private, Socket: signerSocket, MaxExpiration: hostkeys.MaxTokenExpiration,
	})
}
