package preflight

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// Everything is found whichever page it is on.
func TestInspectPages(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	want := Report{LegacySecrets: 5, Renewal: 48*time.Minute + 100*time.Second}
	for i := range 5 {
		name := fmt.Sprintf("n%d", i)
		create(t, client, name)
		want.Nodes = append(want.Nodes, Node{Name: name, Pool: "a"})
		want.BarePods = append(want.BarePods, "default/"+name)
		want.ThirdParty = append(want.ThirdParty, PodUse{Pod: "default/" + name, Uses: []string{"a", "b"}})
		want.SubPaths = append(want.SubPaths, PodUse{Pod: "default/" + name, Uses: []string{"tokens"}})
		want.EnvTokens = append(want.EnvTokens, PodUse{Pod: "default/" + name, Uses: []string{name}})
	}
	for _, pageSize := range []int64{1, 2, 5, 500} {
		got, err := inspect(t.Context(), config, pageSize)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("with %d objects a page (-want +got):\n%s", pageSize, diff)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inspect(ctx, config); err == nil {
		t.Error("Inspect with a canceled context is no error")
	}
}

// create makes a node with a bare pod on it that uses every kind of token, and its Secrets.
func create(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	labels := map[string]string{v1alpha1.LabelNodePool: "a"}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "app"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod(name), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func pod(name string) *corev1.Pod {
	token := func(audience string) corev1.VolumeProjection {
		return corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, Path: "token-" + audience}}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName:           name,
			ServiceAccountName: "app",
			Containers: []corev1.Container{{
				Name: "main", Image: "none",
				VolumeMounts: []corev1.VolumeMount{{Name: "tokens", MountPath: "/token", SubPath: "token-b"}},
				EnvFrom:      []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}},
			}},
			Volumes: []corev1.Volume{{Name: "tokens", VolumeSource: corev1.VolumeSource{
				Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{token("b"), token(""), token("a")}},
			}}},
		},
	}
}
