package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestTake plants a private key, in each form, and a token wherever a cluster can hold them, and finds them nowhere in
// the bundle.
func TestTake(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	if err := install.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	key, traces := newKey(t, "RS256")
	var planted []string
	for _, text := range forms(t, key) {
		planted = append(planted, text)
	}
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ0aGUtcGxhbnRlZC10b2tlbiJ9.c2lnbmF0dXJlc2lnbmF0dXJl"
	planted = append(planted, jwt, "Bearer opaque-planted-token")
	everything := strings.Join(planted, "\n")
	plant(t, client, everything, kubelet(t, "the first line of the log\n"+everything+"\n"))
	clusters := []v1alpha1.UserCluster{{ObjectMeta: metav1.ObjectMeta{
		Namespace: v1alpha1.SystemNamespace, Name: "prod", Annotations: map[string]string{
			"note": everything, corev1.LastAppliedConfigAnnotation: "last-applied",
		},
	}}}
	clusters[0].Status.KSASigningKey.WaitingFor = everything
	clusters[0].Status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{{Version: 1, KeyID: kidOf}}

	archive, err := Take(t.Context(), Source{
		Config: config, Clusters: clusters, Progress: func(string) {},
		Reports: map[string]any{"diagnose-report/report.json": map[string]string{"detail": everything}},
		Texts:   map[string]string{"diagnose-report/report.txt": everything},
	}, "bundle", now)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive)
	for name, content := range files {
		for _, secret := range []string{"the-planted", "opaque-planted", jwt[25:40], "last-applied", "in-the-secret",
			"in-the-env"} {
			if strings.Contains(content, secret) {
				t.Errorf("file %s has %q:\n%s", name, secret, content)
			}
		}
		if traces.In([]byte(content)) {
			t.Errorf("file %s has the private key:\n%s", name, content)
		}
	}
	for name, part := range map[string]string{
		"bundle/userclusters/keyturn-system/prod.yaml":     kidOf,
		"bundle/events/keyturn-system.yaml":                "reason: Planted",
		"bundle/secrets-metadata/keyturn-system.yaml":      "name: prod-key",
		"bundle/controller/deployments.yaml":               "name: keyturn-controller",
		"bundle/controller/pods.yaml":                      "nodeName: planted",
		"bundle/controller/leases.yaml":                    "[]",
		"bundle/logs/keyturn-controller-0/controller.log":  "the first line of the log",
		"bundle/policies/validatingadmissionpolicies.yaml": "keyturn-one-change-at-a-time",
		"bundle/diagnose-report/report.json":               `"detail":`,
		"bundle/diagnose-report/report.txt":                Redacted,
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("file %s lacks %q:\n%s", name, part, files[name])
		}
	}
	if missing := files["bundle/missing.txt"]; missing != "" {
		t.Errorf("something could not be read: %s", missing)
	}
}

// kidOf is the id of a key as it is.
const kidOf = "kO2Yz6m8Cw0bq1nE3vTg5xRj7uLpA9sDfHhJkZcVbNm"

// kubelet serves the log of any container, and returns its port.
func kubelet(t *testing.T, log string) int {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = io.WriteString(w, log)
	}))
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// plant creates objects of a controller that have a text wherever they can, and the node that has its log.
func plant(t *testing.T, client kubernetes.Interface, text string, port int) {
	t.Helper()
	ctx, namespace := t.Context(), v1alpha1.SystemNamespace
	labels := map[string]string{"app.kubernetes.io/part-of": "keyturn"}
	yes, no := true, false
	spec := corev1.PodSpec{NodeName: "planted", Containers: []corev1.Container{{
		Name: "controller", Image: "keyturn", Args: []string{"--flag=" + text},
		Env: []corev1.EnvVar{{Name: "A", Value: "in-the-env"}},
		SecurityContext: &corev1.SecurityContext{
			RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no,
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}}}
	object := metav1.ObjectMeta{Namespace: namespace, Name: "keyturn-controller", Labels: labels,
		Annotations: map[string]string{"note": text}}
	deployment := &appsv1.Deployment{ObjectMeta: object, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
	}}
	pod := &corev1.Pod{ObjectMeta: object, Spec: spec}
	pod.Name = "keyturn-controller-0"
	secret := &corev1.Secret{ObjectMeta: object, Data: map[string][]byte{"key": []byte("in-the-secret")}}
	secret.Name, secret.Labels = "prod-key", map[string]string{v1alpha1.LabelCluster: "prod"}
	event := &corev1.Event{ObjectMeta: object, Reason: "Planted", Message: text[:min(len(text), 1000)],
		InvolvedObject: corev1.ObjectReference{
			Namespace: namespace, Name: "prod", Kind: "UserCluster",
		}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "planted"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
	_, account0 := client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	_, err1 := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	_, err2 := client.AppsV1().Deployments(namespace).Create(ctx, deployment, metav1.CreateOptions{})
	_, err3 := client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	_, err4 := client.CoreV1().Secrets(namespace).Create(ctx, secret, metav1.CreateOptions{})
	_, err5 := client.CoreV1().Events(namespace).Create(ctx, event, metav1.CreateOptions{})
	if err := errors.Join(account0, err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
}

// unpack returns the files of a bundle.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	compressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(compressed); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(content)
	}
}

// TestRefuse puts a key into a file past the layers before.
func TestRefuse(t *testing.T) {
	key, _ := newKey(t, "ES256")
	b := &bundle{files: map[string][]byte{"a.txt": []byte("nothing"), "b.txt": []byte(forms(t, key)["PEM"])}}
	if archive, err := b.archive("bundle", now); err == nil || archive != nil || !strings.Contains(err.Error(), "b.txt") {
		t.Errorf("archive = %d bytes, %v", len(archive), err)
	}
}

// TestNames has names of objects that lead out of the directory of the bundle.
func TestNames(t *testing.T) {
	b := &bundle{files: map[string][]byte{}}
	for _, name := range []string{"../a", "/a", "a/../../b", "a//b", "a\nb", "", ".a", "a/"} {
		b.text(name, "text")
	}
	if len(b.files) > 0 || len(b.missing) != 8 {
		t.Errorf("files: %v, missing: %q", b.files, b.missing)
	}
	b.text("logs/pod-0/container.previous.log", "text")
	if len(b.files) != 1 {
		t.Errorf("a good name is missing: %q", b.missing)
	}
}

// TestSame makes a bundle of the same content twice.
func TestSame(t *testing.T) {
	var archives [][]byte
	for range 2 {
		b := &bundle{files: map[string][]byte{}}
		for i := range 20 {
			b.text(fmt.Sprint("file-", i), "text")
		}
		archive, err := b.archive("bundle", now)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
	}
	if !slices.Equal(archives[0], archives[1]) {
		t.Error("two bundles of the same files differ")
	}
}
