// Package chart tests the Helm chart of keyturn-controller: what the real Helm renders, and what a real API server says
// of it.
package chart

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

const (
	root  = "../../"
	chart = root + "deploy/charts/keyturn"
)

// helm runs the pinned Helm and returns what it prints.
func helm(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	program, err := filepath.Abs(root + "bin/tools/helm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v\nhint: run `make bin/tools/helm`", err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	return cmd.Output()
}

// render returns the objects of the chart in its namespace, with the values that the arguments give.
func render(t *testing.T, args ...string) []*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, template(args...)...)
	if err != nil {
		t.Fatalf("helm template: %v", said(err))
	}
	objects, err := install.Decode(out)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// template are the arguments of helm template. Without a cluster, Helm has to be given its version.
func template(args ...string) []string {
	return append([]string{
		"template", "keyturn", chart, "--namespace", v1alpha1.SystemNamespace, "--kube-version", kubetest.Version,
	}, args...)
}

// said adds to an error of helm what it printed.
func said(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return errors.Join(err, errors.New(string(exit.Stderr)))
	}
	return err
}

func named(objects []*unstructured.Unstructured) map[string]*unstructured.Unstructured {
	all := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		name := o.GetKind() + "/" + o.GetName()
		if ns := o.GetNamespace(); ns != "" && ns != v1alpha1.SystemNamespace {
			name = o.GetKind() + "/" + ns + "/" + o.GetName()
		}
		all[name] = o
	}
	return all
}

// TestSameAPI wants the chart to install the very definition and policies that gkectl installs, and to keep them when
// it is uninstalled.
func TestSameAPI(t *testing.T) {
	embedded, err := install.Objects()
	if err != nil {
		t.Fatal(err)
	}
	rendered, checked := named(render(t)), 0
	for name, want := range named(embedded) {
		switch want.GetKind() {
		case "CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding":
		default:
			continue
		}
		got := rendered[name]
		if got == nil {
			t.Errorf("%s is not in the chart", name)
			continue
		}
		if got.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s goes when the release is uninstalled", name)
		}
		if diff := cmp.Diff(want.Object["spec"], got.Object["spec"]); diff != "" {
			t.Errorf("%s (-embedded +chart):\n%s", name, diff)
		}
		checked++
	}
	if checked < 3 {
		t.Errorf("%d objects were compared, want a definition, policies and bindings", checked)
	}
}

// TestSameRules wants the controller to have the roles of the manifests. With namespaces, the rules about Secrets are
// in a Role of each.
func TestSameRules(t *testing.T) {
	embedded, err := install.Objects()
	if err != nil {
		t.Fatal(err)
	}
	byText := cmpopts.SortSlices(func(a, b any) bool { return text(a) < text(b) })
	everywhere := named(render(t))
	for name, o := range named(embedded) {
		if o.GroupVersionKind().Group != "rbac.authorization.k8s.io" {
			continue
		}
		for _, part := range []string{"rules", "roleRef", "subjects"} {
			if everywhere[name] == nil {
				t.Fatalf("%s is not in the chart", name)
			}
			if diff := cmp.Diff(o.Object[part], everywhere[name].Object[part], byText); diff != "" {
				t.Errorf("%s of %s (-manifests +chart):\n%s", part, name, diff)
			}
		}
	}
	const clusterRole = "ClusterRole/keyturn-controller"
	restricted := named(render(t, "--set", "secretNamespaces={keyturn-system,team-a}"))
	for _, role := range []string{"Role/keyturn-controller", "Role/team-a/keyturn-controller"} {
		both := append(rules(t, restricted, clusterRole), rules(t, restricted, role)...)
		if diff := cmp.Diff(rules(t, everywhere, clusterRole), both, byText); diff != "" {
			t.Errorf("rules with %s (-manifests +chart):\n%s", role, diff)
		}
		if restricted[strings.Replace(role, "Role", "RoleBinding", 1)] == nil {
			t.Errorf("%s is not bound", role)
		}
		for _, rule := range rules(t, restricted, role) {
			if resources := rule.(map[string]any)["resources"]; !cmp.Equal(resources, []any{"secrets"}) {
				t.Errorf("%s has a rule about %v", role, resources)
			}
		}
	}
}

func text(a any) string { return cmp.Diff(nil, a) }

func rules(t *testing.T, objects map[string]*unstructured.Unstructured, role string) []any {
	t.Helper()
	o := objects[role]
	if o == nil {
		t.Fatalf("there is no %s", role)
	}
	list, found, err := unstructured.NestedSlice(o.Object, "rules")
	if err != nil || !found {
		t.Fatalf("%s has no rules: %v", role, err)
	}
	return list
}

func TestSwitchedOff(t *testing.T) {
	for name := range named(render(t, "--values", "testdata/none.yaml")) {
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "CustomResourceDefinition", "ValidatingAdmissionPolicy", "NetworkPolicy", "PodDisruptionBudget",
			"ServiceMonitor", "PrometheusRule", "CronJob":
			t.Errorf("%s is there", name)
		}
		if name == "ClusterRole/keyturn-view" || name == "ClusterRole/keyturn-edit" {
			t.Errorf("%s is there", name)
		}
	}
}

// TestRefused renders the chart with values that cannot work.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"an old Kubernetes":       {[]string{"--kube-version", "1.34.9"}, "incompatible with Kubernetes"},
		"another namespace":       {[]string{"--namespace", "elsewhere"}, "install this chart in namespace keyturn-system"},
		"misspelt":                {[]string{"--set", "replica=3"}, "replica"},
		"of the wrong type":       {[]string{"--set", "replicas=two"}, "replicas"},
		"local without a Secret":  {[]string{"--set", "local.endpoint=https://10.0.0.1:9443"}, "secretName"},
		"Secret without endpoint": {[]string{"--set", "local.secretName=local"}, "secretName"},
		"no URL":                  {[]string{"--set", "allow.fleetEndpoints={http://fleet.example}"}, "fleetEndpoints"},
		"no name of a cluster":    {[]string{"--set", "ownCluster=self"}, "ownCluster"},
		"keys elsewhere": {
			[]string{"--set", "clusterAPI.namespaces={fleet},secretNamespaces={team-a}"}, "secretNamespaces",
		},
		"a namespace in use": {[]string{"--set", "agent.namespace=kube-system"}, "namespace"},
		"a schedule for no keys": {
			[]string{"--set", "schedule.enabled=true,schedule.namespaces={fleet},secretNamespaces={team-a}"}, "secretNamespaces",
		},
		"no age":              {[]string{"--set", "schedule.olderThan=90 days"}, "olderThan"},
		"no rotation at once": {[]string{"--set", "schedule.parallel=0"}, "parallel"},
		"no duration":         {[]string{"--set", "controller.settledInterval=ten minutes"}, "settledInterval"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := helm(t, template(test.args...)...); err == nil || !strings.Contains(said(err).Error(), test.want) {
				t.Errorf("%v, want it to name %q", err, test.want)
			}
		})
	}
}
