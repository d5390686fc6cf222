package chart

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestControllerWithRightsOfChart runs the controller itself with the arguments and the rights that the chart gives it:
// it becomes the leader and ready, sees UserClusters, and serves metrics to those who may read them.
func TestControllerWithRightsOfChart(t *testing.T) {
	for name, values := range map[string][]string{
		"Secrets of all namespaces": nil, "Secrets of one": {"--set", "secretNamespaces={team-a}"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelease(t)
			administrator, _ := r.as("administrator", "system:masters")
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}
			if err := administrator.Create(t.Context(), namespace); err != nil {
				t.Fatal(err)
			}
			r.helm(append([]string{"install", "keyturn", chart, "--create-namespace"}, values...)...)
			uc := newUserCluster("team-a", "blue")
			// The API server may know the definition a moment later than it has it.
			eventually(t, "the UserCluster to be taken", func(ctx context.Context) error {
				return administrator.Create(ctx, uc.DeepCopy())
			})
			metrics := startController(t, r, values...)
			reader, stranger := kubetest.MetricsReader(t, r.config)
			bindMetricsReader(t, administrator)
			eventually(t, "the controller to work on the UserCluster", func(ctx context.Context) error {
				status, text := get(ctx, metrics, reader)
				if status != http.StatusOK || !strings.Contains(text, `keyturn_round_failed{name="blue",namespace="team-a"}`) {
					return fmt.Errorf("status %d, and %d bytes without its metrics", status, len(text))
				}
				return nil
			})
			for token, want := range map[string]int{"": http.StatusUnauthorized, stranger: http.StatusForbidden} {
				if status, _ := get(t.Context(), metrics, token); status != want {
					t.Errorf("somebody else gets status %d of the metrics, want %d", status, want)
				}
			}
		})
	}
}

// bindMetricsReader gives the reader of the tests the role of the chart.
func bindMetricsReader(t *testing.T, administrator client.Client) {
	t.Helper()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "prometheus"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "keyturn-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "reader"}},
	}
	if err := administrator.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
}

// startController runs keyturn-controller as its service account until the test ends. It returns the URL of its metrics
// once it is ready.
func startController(t *testing.T, r *release, values ...string) (metrics string) {
	t.Helper()
	program, err := filepath.Abs(root + "bin/keyturn-controller")
	if err != nil {
		t.Fatal(err)
	}
	port, health := freePort(t), freePort(t)
	args := append(arguments(t, values...), "--kubeconfig="+kubetest.WriteKubeconfig(t, kubetest.AsController(r.config)),
		"--metrics-bind-address=127.0.0.1:"+port, "--health-probe-bind-address=127.0.0.1:"+health)
	cmd := exec.Command(program, args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v\nhint: run `make build`", err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("keyturn-controller ended with %v", err)
		}
		if said := log.String(); t.Failed() || strings.Contains(said, "forbidden") {
			t.Errorf("keyturn-controller:\n%s", said)
		}
	})
	eventually(t, "the controller to be ready", func(ctx context.Context) error {
		if status, text := get(ctx, "http://127.0.0.1:"+health+"/readyz", ""); status != http.StatusOK {
			return fmt.Errorf("status %d: %s", status, text)
		}
		return nil
	})
	return fmt.Sprintf("https://127.0.0.1:%s/metrics", port)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// get returns the status and the text of an answer; 0 if there is none.
func get(ctx context.Context, url, token string) (int, string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	c := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // nobody has signed its certificate
		DisableKeepAlives: true,
	}}
	response, err := c.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

// TestAggregatedRoles has kube-controller-manager put the roles of the chart together with its own, and asks the API
// server what view, edit and admin allow then.
func TestAggregatedRoles(t *testing.T) {
	r := newRelease(t)
	administrator, config := r.as("administrator", "system:masters")
	r.helm("install", "keyturn", chart, "--create-namespace")
	for _, role := range []string{"view", "edit", "admin"} {
		binding := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: role}},
		}
		if err := administrator.Create(t.Context(), binding); err != nil {
			t.Fatal(err)
		}
	}
	kubetest.StartControllers(t, config, "clusterrole-aggregation-controller")
	of := func(user, verb, subresource string, want bool) right {
		return right{user, verb, "keyturn.dev", "userclusters", subresource, "default", "", want}
	}
	checkRightsIn(t, administrator, []right{
		of("view", "get", "", true), of("view", "watch", "", true), of("view", "get", "status", true),
		of("edit", "get", "", true), of("edit", "patch", "", true), of("edit", "delete", "", true),
		of("admin", "get", "", true), of("admin", "create", "", true),
		of("view", "patch", "", false), of("view", "create", "", false),
		of("edit", "patch", "status", false), of("edit", v1alpha1.VerbBreakGlass, "", false),
		of("admin", "patch", "status", false), of("admin", v1alpha1.VerbBreakGlass, "", false),
		{"view", "get", "", "secrets", "", "default", "", false},
	})
}
