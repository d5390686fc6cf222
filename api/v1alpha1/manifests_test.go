package v1alpha1_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	dir, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	kubectl := exec.CommandContext(t.Context(), filepath.Join(dir, "kubectl"), "kustomize", "../../deploy")
	out, err := kubectl.Output()
	if err != nil {
		t.Fatalf("kubectl kustomize deploy: %v", err)
	}
	built, err := install.Decode(out)
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := install.Objects()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(byName(embedded), byName(built)); diff != "" {
		t.Errorf("deploy/ (-embedded +built):\n%s", diff)
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
		{"watch", "", "secrets", "", "", false},
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
					Verb: test.verb, Group: test.group, Resource: test.resource, Subresource: test.subresource, Namespace: test.namespace,
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
