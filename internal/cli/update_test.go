package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// TestUpdateToSigners refuses to give a signer to an API server that cannot have one, and changes nothing.
func TestUpdateToSigners(t *testing.T) {
	c, err := client.New(server, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	user := int64(1000)
	uc := adopted(0)
	uc.Namespace, uc.Name, uc.Spec.Infrastructure.Kubeadm.KubeconfigSecret = v1alpha1.SystemNamespace, "rootless", ""
	uc.Spec.KSASigningKey.Issuer = v1alpha1.DefaultIssuer
	for _, o := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: "cp-rootless", Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""},
		}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: metav1.NamespaceSystem, Name: "kube-apiserver-cp-rootless",
				Labels:      map[string]string{"component": "kube-apiserver"},
				Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "0123"},
			},
			Spec: corev1.PodSpec{
				NodeName: "cp-rootless", SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user},
				Containers: []corev1.Container{{Name: "kube-apiserver", Image: "a", Command: []string{"kube-apiserver"}}},
			},
		},
		uc,
	} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background(), o, client.GracePeriodSeconds(0)); err != nil {
				t.Error(err)
			}
		})
	}
	dir := t.TempDir()
	if err := writeAdminKubeconfig(filepath.Join(dir, "kubeconfig"), server); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "rootless.yaml")
	const text = "apiVersion: v1\nkind: UserCluster\nname: rootless\ninfrastructure: {kubeadm: {}}\n" +
		"ksaSigningKey: {source: external}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, stdout, stderr := testEnv()
	code := Run(t.Context(), a.Env, []string{
		"update", "cluster", "--config", file, "--kubeconfig", filepath.Join(dir, "kubeconfig"), "--wait=false",
	})
	const want = "the API servers of user cluster rootless cannot have signers:\n" +
		"  kube-apiserver on node cp-rootless does not run as root"
	if code != ExitUsage || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
		t.Errorf("it ends with %d: %s%s", code, stdout, stderr)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
		t.Fatal(err)
	}
	if source := uc.Spec.KeySource(); source != v1alpha1.KeySourceFiles {
		t.Errorf("the source is %s now", source)
	}
}
