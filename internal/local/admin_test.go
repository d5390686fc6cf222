package local

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// TestMain lets the test binary stand in for keyturn-controller: as that, it holds the lock, keeps the admin cluster up and says
// that it is ready.
func TestMain(m *testing.M) {
	if os.Args[len(os.Args)-1] == "--supervise" {
		if err := standInController(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func standInController() error {
	flags := map[string]string{}
	for _, a := range os.Args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	h, err := New(Options{
		DataDir: flags["data-dir"], KubeBinDir: flags["kube-bin-dir"], Network: netip.MustParsePrefix(flags["network"]),
	})
	if err != nil {
		return err
	}
	lock, err := h.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			if err := h.EnsureAdmin(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	return http.ListenAndServe(flags["health-probe-bind-address"], http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
}

func TestAdminClusterLifecycle(t *testing.T) {
	h := testHost(t)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	options := AdminOptions{Kubeconfig: kubeconfig, Controller: os.Args[0], Progress: func(s string) { t.Log(s) }}
	t.Cleanup(func() {
		if err := h.DeleteAdmin(context.Background(), DeleteAdminOptions{Force: true}); err != nil {
			t.Error(err)
		}
		if left := processesOf(t, h.DataDir()); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
		if _, err := os.Stat(h.DataDir()); !os.IsNotExist(err) {
			t.Errorf("data directory is left: %v", err)
		}
	})
	if err := h.CreateAdmin(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if _, err := h.EnsureSite("keyturn-system.left"); err != nil { // goes with the admin cluster
		t.Fatal(err)
	}
	if mode := fileMode(t, kubeconfig); mode != 0o600 {
		t.Errorf("kubeconfig has mode %o", mode)
	}
	client := clientOf(t, kubeconfig)
	checkEncrypted(t, h, client)

	run := h.Runner(h.AdminSite())
	before := pidsOf(t, h)
	if err := h.CreateAdmin(t.Context(), options); err != nil {
		t.Fatalf("again: %v", err)
	}
	if after := pidsOf(t, h); after != before {
		t.Errorf("creating it again changed processes from %v to %v", before, after)
	}
	for _, name := range []string{"etcd", apiServerName(0), controllerName} {
		if err := run.Signal(name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := h.CreateAdmin(t.Context(), options); err != nil {
			t.Fatalf("after the death of %s: %v", name, err)
		}
	}
	if _, err := client.CoreV1().Secrets("default").Get(t.Context(), "secret", metav1.GetOptions{}); err != nil {
		t.Errorf("reading the Secret after all died: %v", err)
	}
}

func TestDeleteAdminRefusesWithClusters(t *testing.T) {
	h := testHost(t)
	if _, err := h.EnsureSite("keyturn-system.alpha"); err != nil {
		t.Fatal(err)
	}
	err := h.DeleteAdmin(t.Context(), DeleteAdminOptions{})
	if err == nil || !strings.Contains(err.Error(), "user clusters: alpha") {
		t.Errorf("got %v", err)
	}
}

// checkEncrypted makes a Secret and looks for what it says in etcd's files.
func checkEncrypted(t *testing.T, h *Host, client *kubernetes.Clientset) {
	t.Helper()
	const secret, open = "not-to-be-found-on-disk", "to-be-found-on-disk-in-clear"
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"key": secret},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "open"}, Data: map[string]string{"key": open},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var all []byte
	err := filepath.WalkDir(h.AdminSite().Path("etcd"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		all = append(all, raw...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(all, []byte(secret)) || !bytes.Contains(all, []byte(open)) {
		t.Error("a Secret is on disk in clear, or a ConfigMap is not")
	}
}

func clientOf(t *testing.T, kubeconfig string) *kubernetes.Clientset {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func pidsOf(t *testing.T, h *Host) (pids [3]int) {
	t.Helper()
	for i, name := range []string{"etcd", apiServerName(0), controllerName} {
		st, err := h.Runner(h.AdminSite()).Observe(name)
		if err != nil || !st.Running {
			t.Fatalf("%s: %+v, %v", name, st, err)
		}
		pids[i] = st.PID
	}
	return pids
}

func fileMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode().Perm()
}
