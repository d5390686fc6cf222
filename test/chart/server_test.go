package chart

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

var (
	config *rest.Config
	admin  client.Client
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run has an API server with the namespaces of the tests.
func run(m *testing.M) int {
	cfg, stop, err := kubetest.Launch(kubetest.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = stop() }()
	config = cfg
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func prepare() error {
	c, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	admin = client.WithFieldValidation(c, metav1.FieldValidationStrict)
	for _, name := range []string{v1alpha1.SystemNamespace, "team-a"} {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		}}
		if err := admin.Create(context.Background(), n); err != nil {
			return err
		}
	}
	return nil
}

// TestServerAccepts has the API server check all objects, with the fewest values and with all, without storing them.
func TestServerAccepts(t *testing.T) {
	for name, args := range map[string][]string{
		"defaults": nil, "everything off": {"--values", "testdata/none.yaml"},
		"all values": {"--values", "testdata/all.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, o := range render(t, args...) {
				if o.GroupVersionKind().Group == "monitoring.coreos.com" {
					continue // the API server knows it only with the Prometheus Operator
				}
				if o.GetKind() == "Namespace" {
					makeNamespace(t, o)
					continue
				}
				if err := admin.Create(t.Context(), o.DeepCopy(), client.DryRunAll); err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
				switch o.GetKind() {
				case "Deployment":
					var d appsv1.Deployment
					convert(t, o, &d)
					checkPod(t, o, d.Spec.Template)
				case "CronJob":
					var c batchv1.CronJob
					convert(t, o, &c)
					checkPod(t, o, c.Spec.JobTemplate.Spec.Template)
				}
			}
		})
	}
}

// makeNamespace stores a namespace, which the roles in it need. Nothing would ever remove it from this API server.
func makeNamespace(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	if err := client.IgnoreAlreadyExists(admin.Create(t.Context(), o.DeepCopy())); err != nil {
		t.Fatal(err)
	}
}

// convert makes an object of its own type of one.
func convert(t *testing.T, o *unstructured.Unstructured, into any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		t.Fatal(err)
	}
}

// checkPod has the API server check the pods of an object, which a namespace of Pod Security level restricted must
// accept.
func checkPod(t *testing.T, o *unstructured.Unstructured, template corev1.PodTemplateSpec) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.GenerateName = o.GetNamespace(), o.GetName()+"-"
	if err := admin.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Errorf("a pod of %s %s: %v", o.GetKind(), o.GetName(), err)
	}
	if readOnly := pod.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem; readOnly == nil || !*readOnly {
		t.Errorf("%s %s can write to its root file system", o.GetKind(), o.GetName())
	}
}

// installRoles stores the roles of the chart, and binds those for people to users of their names.
func installRoles(t *testing.T, args ...string) {
	t.Helper()
	for _, o := range render(t, args...) {
		if o.GetKind() == "Namespace" {
			makeNamespace(t, o)
		}
		if o.GroupVersionKind().Group != "rbac.authorization.k8s.io" {
			continue
		}
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := admin.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
	for _, role := range []string{"keyturn-view", "keyturn-edit"} {
		binding := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": role},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": role}},
		}}
		if err := admin.Create(t.Context(), binding); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := admin.Delete(context.Background(), binding); err != nil {
				t.Error(err)
			}
		})
	}
}

const account = "system:serviceaccount:" + v1alpha1.SystemNamespace + ":keyturn-controller"

// TestOwnCluster asks the API server what the roles allow in the cluster in which the controller runs, whose keys it
// rotates, and that they allow nothing of it in others.
func TestOwnCluster(t *testing.T) {
	type request struct{ verb, group, resource, subresource, namespace, name string }
	may := []request{
		{"list", "", "nodes", "", "", ""},
		{"list", "", "pods", "", "", ""},
		{"patch", "", "pods", "", "team-a", "web"},
		{"create", "", "pods", "eviction", "team-a", "web"},
		{"list", "", "secrets", "", "", ""},
		{"update", "", "secrets", "", "team-a", "token"},
		{"list", "discovery.k8s.io", "endpointslices", "", "default", ""},
		{"create", "", "pods", "portforward", "kube-system", "kube-apiserver-cp-1"},
		{"get", "", "pods", "log", "kube-system", "kube-apiserver-cp-1"},
		{"create", "", "serviceaccounts", "token", "kube-system", "keyturn-canary"},
		{"delete", "", "serviceaccounts", "", "kube-system", "keyturn-canary"},
		{"get", "coordination.k8s.io", "leases", "", "kube-system", "kube-scheduler"},
		{"delete", "", "configmaps", "", "kube-system", "keyturn-signing-key"},
		{"delete", "", "secrets", "", "kube-system", "kubeadm-certs"},
		{"create", "", "pods", "exec", "keyturn-agent", "keyturn-agent-x"},
		{"create", "apps", "daemonsets", "", "keyturn-agent", ""},
		{"delete", "apps", "daemonsets", "", "keyturn-agent", "keyturn-agent"},
	}
	mayNot := []request{
		{"create", "", "pods", "exec", "kube-system", "kube-apiserver-cp-1"},
		{"create", "", "pods", "exec", v1alpha1.SystemNamespace, ""},
		{"create", "", "pods", "portforward", "team-a", ""},
		{"get", "", "pods", "log", "team-a", "web"},
		{"create", "", "pods", "", "keyturn-agent", ""},
		{"create", "apps", "daemonsets", "", "kube-system", ""},
		{"update", "apps", "daemonsets", "", "keyturn-agent", "other"},
		{"create", "", "serviceaccounts", "token", "kube-system", "admin"},
		{"create", "", "serviceaccounts", "token", "team-a", "keyturn-canary"},
		{"delete", "", "configmaps", "", "kube-system", "kubeadm-config"},
		{"create", "", "namespaces", "", "", ""},
		{"delete", "", "nodes", "", "", "cp-1"},
		{"create", "rbac.authorization.k8s.io", "clusterrolebindings", "", "", ""},
	}
	rightsTo := func(requests []request, allowed bool) (rights []right) {
		for _, r := range requests {
			rights = append(rights, right{account, r.verb, r.group, r.resource, r.subresource, r.namespace, r.name, allowed})
		}
		return rights
	}
	t.Run("named", func(t *testing.T) {
		installRoles(t, "--set", "ownCluster=keyturn-system/self,secretNamespaces={keyturn-system}")
		checkRights(t, append(rightsTo(may, true), rightsTo(mayNot, false)...))
	})
	t.Run("not named", func(t *testing.T) {
		installRoles(t, "--set", "secretNamespaces={keyturn-system}")
		checkRights(t, append(rightsTo(may, false), rightsTo(mayNot, false)...))
	})
}

// TestClusterAPI asks the API server what the roles allow in the namespaces of clusters of Cluster API.
func TestClusterAPI(t *testing.T) {
	installRoles(t, "--set", "clusterAPI.namespaces={team-a}")
	const core, controlPlane = "cluster.x-k8s.io", "controlplane.cluster.x-k8s.io"
	checkRights(t, []right{
		{account, "get", core, "clusters", "", "team-a", "prod", true},
		{account, "list", core, "machines", "", "team-a", "", true},
		{account, "get", controlPlane, "kubeadmcontrolplanes", "", "team-a", "prod", true},
		{account, "update", "", "secrets", "", "team-a", "prod-sa", true},
		{account, "patch", core, "clusters", "", "team-a", "prod", false},
		{account, "delete", core, "machines", "", "team-a", "prod", false},
		{account, "update", controlPlane, "kubeadmcontrolplanes", "", "team-a", "prod", false},
		{account, "list", core, "clusters", "", "team-a", "", false},
		{account, "watch", core, "machines", "", "team-a", "", false},
		{account, "list", core, "machinedeployments", "", "team-a", "", false},
		{account, "get", core, "clusters", "", "elsewhere", "prod", false},
		{account, "list", core, "machines", "", "", "", false},
	})
}

// TestReplaceNodes lets the controller have Cluster API replace machines, and nothing else.
func TestReplaceNodes(t *testing.T) {
	installRoles(t, "--set", "clusterAPI.namespaces={team-a},clusterAPI.replaceNodes=true")
	const core, controlPlane = "cluster.x-k8s.io", "controlplane.cluster.x-k8s.io"
	checkRights(t, []right{
		{account, "update", core, "clusters", "", "team-a", "prod", true},
		{account, "list", core, "machinepools", "", "team-a", "", true},
		{account, "update", core, "machinedeployments", "", "team-a", "prod", true},
		{account, "update", controlPlane, "kubeadmcontrolplanes", "", "team-a", "prod", true},
		{account, "get", core, "machinepools", "", "team-a", "prod", false},
		{account, "update", core, "machinepools", "", "team-a", "prod", false},
		{account, "delete", core, "machines", "", "team-a", "prod", false},
		{account, "update", core, "machinedeployments", "", "elsewhere", "prod", false},
	})
}

// TestRoles asks the API server what the roles allow, when the controller may use the Secrets of one namespace.
func TestRoles(t *testing.T) {
	installRoles(t, "--set", "secretNamespaces={team-a}")
	checkRights(t, []right{
		{account, "create", "", "secrets", "", "team-a", "", true},
		{account, "create", "", "secrets", "", v1alpha1.SystemNamespace, "", false},
		{account, "list", "", "secrets", "", "", "", false},
		{account, "patch", "keyturn.dev", "userclusters", "status", "team-a", "", true},
		{account, "create", "authentication.k8s.io", "tokenreviews", "", "", "", true},
		{account, "create", "", "serviceaccounts", "token", v1alpha1.SystemNamespace, "", false},
		{account, "create", "", "pods", "", v1alpha1.SystemNamespace, "", false},
		{"keyturn-view", "watch", "keyturn.dev", "userclusters", "", "team-a", "", true},
		{"keyturn-view", "get", "keyturn.dev", "userclusters", "status", "team-a", "", true},
		{"keyturn-view", "update", "keyturn.dev", "userclusters", "", "team-a", "", false},
		{"keyturn-view", "get", "", "secrets", "", "team-a", "", false},
		{"keyturn-edit", "update", "keyturn.dev", "userclusters", "", "team-a", "", true},
		{"keyturn-edit", "update", "keyturn.dev", "userclusters", "status", "team-a", "", false},
		{"keyturn-edit", v1alpha1.VerbBreakGlass, "keyturn.dev", "userclusters", "", "team-a", "", false},
		{"keyturn-edit", "get", "", "secrets", "", "team-a", "", false},
	})
}

// right is what a user may do, or not.
type right struct {
	user, verb, group, resource, subresource, namespace, name string
	want                                                      bool
}

// checkRights first checks what is allowed: once the API server knows these roles, it knows that nothing else is.
func checkRights(t *testing.T, rights []right) {
	t.Helper()
	checkRightsIn(t, admin, rights)
}

// checkRightsIn is checkRights in the API server of a client.
func checkRightsIn(t *testing.T, c client.Client, rights []right) {
	t.Helper()
	for _, want := range []bool{true, false} {
		for _, r := range rights {
			if r.want == want && allowed(t, c, r) != want {
				t.Errorf("%+v: allowed %t", r, !want)
			}
		}
	}
}

// allowed asks until the answer is the wanted one, as the API server sees new roles a moment later, or for 30 seconds.
func allowed(t *testing.T, c client.Client, r right) bool {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.user,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource, Namespace: r.namespace,
				Name: r.name,
			},
		}}
		if err := c.Create(t.Context(), review); err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed == r.want || time.Now().After(deadline) {
			return review.Status.Allowed
		}
	}
}
