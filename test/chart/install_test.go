package chart

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// release is the chart in an API server of its own, which runs nothing.
type release struct {
	t          *testing.T
	config     *rest.Config
	kubeconfig string
	client     client.Client
}

func newRelease(t *testing.T) *release {
	t.Helper()
	cfg := kubetest.Start(t, kubetest.Options{})
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &release{t: t, config: cfg, kubeconfig: kubetest.WriteKubeconfig(t, cfg), client: c}
}

// helm runs Helm in the API server.
func (r *release) helm(args ...string) {
	r.t.Helper()
	args = append(args, "--namespace", v1alpha1.SystemNamespace, "--kubeconfig", r.kubeconfig)
	if out, err := helm(r.t, args...); err != nil {
		r.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), said(err), out)
	}
}

// get returns a UserCluster or another object; nil if it is not there.
func (r *release) get(group, version, kind, namespace, name string) *unstructured.Unstructured {
	r.t.Helper()
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
	err := r.client.Get(r.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

func (r *release) replicas() int32 {
	r.t.Helper()
	var d appsv1.Deployment
	key := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "keyturn-controller"}
	if err := r.client.Get(r.t.Context(), key, &d); err != nil {
		r.t.Fatal(err)
	}
	return *d.Spec.Replicas
}

func (r *release) definition() *unstructured.Unstructured {
	r.t.Helper()
	return r.get("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "", "userclusters.keyturn.dev")
}

// TestLifeOfRelease installs, upgrades and uninstalls the chart: an upgrade brings back what the definition lost, and
// uninstalling keeps it and the policies.
func TestLifeOfRelease(t *testing.T) {
	r := newRelease(t)
	r.helm("install", "keyturn", chart, "--create-namespace")
	first := r.definition()
	if first == nil || r.replicas() != 2 {
		t.Fatalf("after the installation: definition %v, %d controllers", first, r.replicas())
	}
	// As if an earlier chart had installed it:
	patch := []byte(`{"spec":{"names":{"shortNames":["old"]}}}`)
	if err := r.client.Patch(t.Context(), first, client.RawPatch("application/merge-patch+json", patch)); err != nil {
		t.Fatal(err)
	}
	r.helm("upgrade", "keyturn", chart, "--set", "replicas=3")
	names, _, err := unstructured.NestedStringSlice(r.definition().Object, "spec", "names", "shortNames")
	if err != nil || slices.Contains(names, "old") {
		t.Errorf("the upgrade left the definition as it was: %v, %v", names, err)
	}
	if got := r.replicas(); got != 3 {
		t.Errorf("%d controllers after the upgrade, want 3", got)
	}
	r.helm("uninstall", "keyturn")
	if r.get("apps", "v1", "Deployment", v1alpha1.SystemNamespace, "keyturn-controller") != nil {
		t.Error("the controllers are left")
	}
	const policy = "ValidatingAdmissionPolicy"
	if r.definition() == nil || r.get("admissionregistration.k8s.io", "v1", policy, "", "keyturn-signing-keys") == nil {
		t.Error("the definition or a policy is gone")
	}
}

// TestTakesOwnership installs the chart where gkectl has installed the API.
func TestTakesOwnership(t *testing.T) {
	r := newRelease(t)
	cfg, err := clientcmd.BuildConfigFromFlags("", r.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := install.Apply(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	r.helm("install", "keyturn", chart, "--take-ownership")
	if got := r.definition().GetAnnotations()["meta.helm.sh/release-name"]; got != "keyturn" {
		t.Errorf("the definition belongs to release %q", got)
	}
}

// TestWithoutAPI installs the chart in a cluster whose definition and policies somebody else keeps.
func TestWithoutAPI(t *testing.T) {
	r := newRelease(t)
	r.helm("install", "keyturn", chart, "--create-namespace", "--set", "crds.install=false")
	if r.definition() != nil {
		t.Error("the chart installed the definition")
	}
}
