package chart

import (
	"context"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

const (
	coreGroup         = "cluster.x-k8s.io"
	controlPlaneGroup = "controlplane.cluster.x-k8s.io"
)

// TestClusterAPIPolicy keeps the control plane of a cluster as it is while its key is rotated, and nothing else.
func TestClusterAPIPolicy(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{}) // of its own: it gets the policies
	c := clusterAPIClient(t, config)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(install.Apply(t.Context(), config))
	must(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}))
	versions := []string{"v1beta1", "v1beta2"}
	kubetest.ServeKinds(t, config, coreGroup, versions, "Cluster")
	kubetest.ServeKinds(t, config, controlPlaneGroup, versions, "KubeadmControlPlane")
	for _, o := range render(t, "--set", "clusterAPI.namespaces={team-a}") {
		if strings.HasPrefix(o.GetKind(), "ValidatingAdmissionPolicy") && o.GetName() == "keyturn-cluster-api" {
			must(c.Create(t.Context(), o))
		}
	}
	rotated := adoptedBy(t, c, "prod")
	objects := map[string]*unstructured.Unstructured{
		"prod":  clusterAPIObject(controlPlaneGroup, "KubeadmControlPlane", "prod-x7k2p", "prod"),
		"other": clusterAPIObject(controlPlaneGroup, "KubeadmControlPlane", "other", "other"),
		"class": clusterAPIObject(coreGroup, "Cluster", "prod", "prod"),
	}
	for _, o := range objects {
		eventually(t, o.GetName()+" to be created", func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(c.Create(ctx, o.DeepCopy()))
		})
	}
	change := func(name, merge string) error {
		patch := client.RawPatch(types.MergePatchType, []byte(merge))
		return c.Patch(t.Context(), objects[name].DeepCopy(), patch, client.DryRunAll)
	}
	scale := func(name string) error { // as kubectl does
		patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":5}}`))
		return c.SubResource("scale").Patch(t.Context(), objects[name].DeepCopy(), patch, client.DryRunAll,
			&client.SubResourcePatchOptions{SubResourceBody: &autoscalingv1.Scale{}})
	}
	old := objects["class"].DeepCopy()
	old.SetAPIVersion(coreGroup + "/v1beta1")
	objects["old class"] = old
	const replicas, topology = `{"spec":{"replicas":5}}`, `{"spec":{"topology":{"version":"v1.37.0"}}}`
	must(change("prod", replicas))
	must(change("class", topology))

	must(scale("prod"))

	rotated.Status.KSASigningKey.Step = "Publish"
	rotated.Status.Infrastructure.ClusterAPI = &v1alpha1.KubeadmInfrastructureStatus{ControlPlane: "prod-x7k2p"}
	must(clusterAPIClient(t, kubetest.AsController(config)).Status().Patch(t.Context(), rotated, client.Merge))
	eventually(t, "the policy to know that the key is rotated", func(context.Context) error {
		if err := change("prod", replicas); err == nil {
			return context.DeadlineExceeded
		}
		return nil
	})
	for _, tt := range []struct{ name, merge, says string }{
		{"prod", replicas, "spec.replicas of KubeadmControlPlane prod-x7k2p cannot be changed while"},
		{"prod", `{"spec":{"version":"v1.37.0"}}`, "spec.version"},
		{"prod", `{"spec":{"kubeadmConfigSpec":{"verbosity":5}}}`, "(UserCluster prod, step Publish)"},
		{"class", topology, "spec.topology.version of Cluster prod"},
		{"class", `{"spec":{"topology":{"controlPlane":{"replicas":5}}}}`, "spec.topology.controlPlane.replicas"},
		{"old class", `{"spec":{"topology":{"class":"next"}}}`, "spec.topology.class of Cluster prod"},
		{"old class", `{"spec":{"topology":{"workers":{"machineDeployments":[]}}}}`, ""},
		{"prod", `{"spec":{"rollout":{"after":"2027-01-01T00:00:00Z"}}}`, ""},
		{"prod", `{"metadata":{"labels":{"a":"b"}}}`, ""},
		{"class", `{"spec":{"topology":{"controlPlane":{"rollout":{"after":"2027-01-01T00:00:00Z"}}}}}`, ""},
		{"class", `{"spec":{"topology":{"workers":{"machineDeployments":[]}}}}`, ""},
		{"class", `{"spec":{"paused":true}}`, ""},
		{"other", replicas, ""},
		{"prod", `{"metadata":{"annotations":{"keyturn.dev/break-glass":"it is on fire"}},"spec":{"replicas":5}}`, ""},
	} {
		err := change(tt.name, tt.merge)
		if refused := err != nil; refused != (tt.says != "") || refused && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s of %s: %v, want %q", tt.merge, tt.name, err, tt.says)
		}
	}
	if err := scale("prod"); err == nil || !strings.Contains(err.Error(), "spec.replicas of Scale prod-x7k2p cannot be") {
		t.Errorf("scaling the control plane: %v", err)
	}
	must(scale("other"))
}

func clusterAPIClient(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clusterAPIObject(group, kind, name, cluster string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1beta2", "kind": kind,
		"metadata": map[string]any{
			"namespace": "team-a", "name": name, "labels": map[string]any{"cluster.x-k8s.io/cluster-name": cluster},
		},
		"spec": map[string]any{"replicas": int64(3), "version": "v1.36.4"},
	}}
}

// adoptedBy creates a UserCluster of a Cluster of its name.
func adoptedBy(t *testing.T, c client.Client, name string) *v1alpha1.UserCluster {
	t.Helper()
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name}}
	uc.Spec.Infrastructure.ClusterAPI = &v1alpha1.ClusterAPIInfrastructure{Cluster: name}
	uc.Spec.KSASigningKey = v1alpha1.KSASigningKey{
		Version: 1, Algorithm: v1alpha1.RS256, Issuer: v1alpha1.DefaultIssuer, TokenReloadSeconds: 300,
		PublishMaxAgeSeconds: 60,
		Retire:               v1alpha1.RetireAfterRefresh, RetireTimeoutSeconds: 60,
	}
	if err := c.Create(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	return uc
}
