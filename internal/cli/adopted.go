package cli

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// minRestart and maxRestart are how many seconds an API server of kubeadm is down when its manifest changes. The
// kubelet retries a static pod only every 10 to 15 s, and kube-apiserver itself waits half a minute for clients that
// watch, unless it already runs with --shutdown-send-retry-after.
const (
	minRestart, maxRestart = 36, 46
	shortRestart           = 15
)

// clientConfig returns how to reach a user cluster as its administrator. It reaches an adopted cluster as the
// controller does: with the Secret that the spec names, or as the admin cluster itself if the spec names none.
func (c admin) clientConfig(ctx context.Context, uc *v1alpha1.UserCluster) (*rest.Config, error) {
	var access kubeconfig.Access
	var err error
	switch on := uc.Spec.Infrastructure; {
	case on.ClusterAPI != nil:
		access, err = c.adoptedAccess(ctx, uc, on.ClusterAPI.Cluster+"-kubeconfig",
			"check that Cluster API has made the cluster")
	case on.Kubeadm == nil:
		access, err = c.access(ctx, uc)
	case on.Kubeadm.KubeconfigSecret == "":
		return rest.CopyConfig(c.config), nil
	default:
		access, err = c.adoptedAccess(ctx, uc, on.Kubeadm.KubeconfigSecret, "make it with `kubectl --namespace "+uc.Namespace+
			" create secret generic "+on.Kubeadm.KubeconfigSecret+" --from-file="+v1alpha1.KubeconfigKey+
			"=admin.conf`, label it "+v1alpha1.LabelCluster+"="+uc.Name+
			", or name a file with infrastructure.kubeadm.kubeconfigPath")
	}
	if err != nil {
		return nil, err
	}
	config := access.Config()
	config.UserAgent = c.program.userAgent()
	config.Wrap(kubeconfig.Bound)
	return config, nil
}

// adoptedAccess reads the Secret with the kubeconfig of an adopted cluster. absent is the hint if it does not exist.
func (c admin) adoptedAccess(
	ctx context.Context, uc *v1alpha1.UserCluster, name, absent string,
) (kubeconfig.Access, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: name}
	err := c.client.Get(ctx, key, secret)
	if isMissing(err) {
		return kubeconfig.Access{}, failed(absent,
			"Secret %s, which should hold the kubeconfig of user cluster %s, does not exist", key, uc.Name)
	}
	if err != nil {
		return kubeconfig.Access{}, fmt.Errorf("reading the kubeconfig of user cluster %s: %w", uc.Name, err)
	}
	named := secret.Labels[v1alpha1.LabelCluster] == uc.Name && secret.Type == corev1.SecretTypeOpaque
	if uc.Spec.Infrastructure.Kubeadm != nil && !named {
		return kubeconfig.Access{}, failed("if the cluster may be reached with it, run `kubectl --namespace "+uc.Namespace+
			" label secret "+name+" "+v1alpha1.LabelCluster+"="+uc.Name+"`",
			"Secret %s is not marked as the kubeconfig of user cluster %s: it lacks the label %s=%s or the type %s",
			key, uc.Name, v1alpha1.LabelCluster, uc.Name, corev1.SecretTypeOpaque)
	}
	access, err := kubeconfig.Parse(secret.Data[v1alpha1.KubeconfigKey])
	if err != nil {
		return kubeconfig.Access{}, failed("give its key "+v1alpha1.KubeconfigKey+
			" a file as `kubectl config view --raw --flatten "+
			"--minify` writes it", "Secret %s: %w", key, err)
	}
	return access, nil
}

// convertsEach describes what changing the key source does to the API servers of an adopted cluster.
func convertsEach(n int) string {
	if n == 1 {
		return fmt.Sprintf("restarts the only API server once, for %d to %d s: THE KUBERNETES API IS AWAY meanwhile",
			minRestart, maxRestart)
	}
	return fmt.Sprintf("restarts %s once, one at a time, each for %d to %d s", count(n, "API server"), minRestart,
		maxRestart)
}
