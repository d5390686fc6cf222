package v1alpha1_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestApplyAgain wants the second application of the manifests to change nothing.
func TestApplyAgain(t *testing.T) {
	objects, err := install.Objects()
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for _, object := range objects {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		before[object.GetKind()+"/"+object.GetName()] = object.GetResourceVersion()
	}
	if err := install.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		name := object.GetKind() + "/" + object.GetName()
		if object.GetResourceVersion() != before[name] {
			t.Errorf("%s changed", name)
		}
	}
}

// TestKustomization wants kubectl to find in deploy/ exactly the objects that are embedded.
func TestKustomization(t *testing.T) {
	built := kustomize(t, "../../deploy")
	embedded, err := install.Objects()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(byName(embedded), byName(built)); diff != "" {
		t.Errorf("deploy/ (-embedded +built):\n%s", diff)
	}
}

// kustomize returns the objects that kubectl builds of a directory.
func kustomize(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	dir, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "kubectl"), "kustomize", path).Output()
	if err != nil {
		t.Fatalf("kubectl kustomize %s: %v", path, err)
	}
	built, err := install.Decode(out)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// TestOneNamespace wants the variant for one namespace to differ in nothing but where the rule about Secrets is.
func TestOneNamespace(t *testing.T) {
	everywhere, restricted := byName(kustomize(t, "../../deploy")), byName(kustomize(t, "../../deploy/one-namespace"))
	const clusterRole, role = "ClusterRole/keyturn-controller", "Role/keyturn-controller"
	rules := func(of map[string]any, name string) []any {
		list, found, err := unstructured.NestedSlice(of[name].(map[string]any), "rules")
		if err != nil || !found {
			t.Fatalf("%s has no rules: %v", name, err)
		}
		return list
	}
	all := rules(everywhere, clusterRole)
	parts := append(rules(restricted, clusterRole), rules(restricted, role)...)
	byText := func(a, b any) bool { return fmt.Sprint(a) < fmt.Sprint(b) }
	if diff := cmp.Diff(all, parts, cmpopts.SortSlices(byText)); diff != "" {
		t.Errorf("rules (-everywhere +one namespace):\n%s", diff)
	}
	for _, name := range []string{clusterRole, role, "RoleBinding/keyturn-controller"} {
		delete(everywhere, name)
		delete(restricted, name)
	}
	if diff := cmp.Diff(everywhere, restricted); diff != "" {
		t.Errorf("other objects (-everywhere +one namespace):\n%s", diff)
	}
}

func byName(objects []*unstructured.Unstructured) map[string]any {
	named := map[string]any{}
	for _, object := range objects {
		named[object.GetKind()+"/"+object.GetName()] = object.Object
	}
	return named
}

// TestControllerRoles asks the API server what the controller may do, and what it has no need to do.
func TestControllerRoles(t *testing.T) {
	for _, test := range []struct {
		verb, group, resource, subresource, namespace string
		want                                          bool
	}{
		{"watch", "keyturn.dev", "userclusters", "", "", true},
		{"patch", "keyturn.dev", "userclusters", "", "elsewhere", true},
		{"update", "keyturn.dev", "userclusters", "", "elsewhere", false},
		{"patch", "keyturn.dev", "userclusters", "status", "elsewhere", true},
		{"update", "keyturn.dev", "userclusters", "status", "elsewhere", false},
		{"update", "keyturn.dev", "userclusters", "finalizers", "elsewhere", false},
		{"create", "keyturn.dev", "userclusters", "", v1alpha1.SystemNamespace, false},
		{"delete", "keyturn.dev", "userclusters", "", v1alpha1.SystemNamespace, false},
		{v1alpha1.VerbBreakGlass, "keyturn.dev", "userclusters", "", v1alpha1.SystemNamespace, false},
		{"list", "", "secrets", "", "", true},
		{"watch", "", "secrets", "", "", true},
		{"create", "", "secrets", "", "elsewhere", true},
		{"update", "", "secrets", "", "elsewhere", true},
		{"patch", "", "secrets", "", "elsewhere", false},
		{"delete", "", "secrets", "", "elsewhere", true},
		{"deletecollection", "", "secrets", "", v1alpha1.SystemNamespace, false},
		{"create", "", "events", "", "elsewhere", true},
		{"patch", "events.k8s.io", "events", "", "elsewhere", true},
		{"get", "coordination.k8s.io", "leases", "", v1alpha1.SystemNamespace, false},
		{"update", "coordination.k8s.io", "leases", "", v1alpha1.SystemNamespace, false},
		{"get", "", "configmaps", "", v1alpha1.SystemNamespace, false},
		{"create", "", "pods", "", v1alpha1.SystemNamespace, false},
		{"create", "", "serviceaccounts", "token", v1alpha1.SystemNamespace, false},
		{"update", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", "", false},
		{"update", "rbac.authorization.k8s.io", "clusterroles", "", "", false},
	} {
		t.Run(test.verb+" "+test.group+" "+test.resource+" "+test.subresource+" "+test.namespace, func(t *testing.T) {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: test.verb, Group: test.group, Resource: test.resource, Subresource: test.subresource,
					Namespace: test.namespace,
				},
			}}
			if err := controller.Create(t.Context(), review); err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != test.want {
				t.Errorf("allowed = %v, want %v (%s)", review.Status.Allowed, test.want, review.Status.Reason)
			}
		})
	}
}
