package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
)

// TestMain lets the test binary stand in for keyturn-controller: as that, it holds the lock, keeps the admin cluster up and says
// that it is ready. As keyturn-fleet it is the real one.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "keyturn-controller":
		if err := standInController(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "keyturn-fleet":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(fleetserver.Run(ctx, os.Args[1:], os.Stderr))
	}
	os.Exit(m.Run())
}

// programs is a folder in which the test binary goes by the names of our programs.
func programs(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"keyturn-controller", "keyturn-fleet"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func standInController() error {
	flags := map[string]string{}
	for _, a := range os.Args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	h, err := New(Options{
		DataDir: flags["data-dir"], KubeBinDir: flags["kube-bin-dir"], Network: netip.MustParsePrefix(flags["network"]),
		ProgramDir: filepath.Dir(os.Args[0]), Loopback: true,
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
	h.programDir = programs(t)
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	files := FleetFiles{Key: filepath.Join(dir, "key.json"), CA: filepath.Join(dir, "ca.crt")}
	options := AdminOptions{Kubeconfig: kubeconfig, Fleet: files, Progress: func(s string) { t.Log(s) }}
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
	for _, path := range []string{kubeconfig, files.Key, files.CA} {
		if mode := fileMode(t, path); mode != 0o600 {
			t.Errorf("%s has mode %o", path, mode)
		}
	}
	checkFleet(t, h, files)
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
	for _, name := range adminProcesses {
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

// checkFleet registers a cluster with the key and the certificate that the user gets, by Google's client.
func checkFleet(t *testing.T, h *Host, files FleetFiles) {
	t.Helper()
	key, err := os.ReadFile(files.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	membership, err := gkehub.New(t.Context(), gkehub.Options{
		ProjectID: "my-project", Location: "global", Membership: "alpha", ExternalID: "uid", Issuer: v1alpha1.DefaultIssuer,
		Endpoint: h.FleetEndpoint(), STSEndpoint: h.FleetEndpoint(), CABundle: ca, CredentialsJSON: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := keystore.Generate(rand.Reader, 1, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	keys := []keystore.KeyPair{pair}
	if err := membership.Publish(t.Context(), keys, []int{1}); err != nil {
		t.Fatal(err)
	}
	seen, err := membership.Observe(t.Context(), keys)
	if err != nil || !slices.Equal(seen.Accepts, []int{1}) {
		t.Errorf("the fleet accepts %v (%v), want key version 1", seen.Accepts, err)
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

var adminProcesses = [...]string{"etcd", apiServerName(0), controllerName, fleetName}

func pidsOf(t *testing.T, h *Host) (pids [len(adminProcesses)]int) {
	t.Helper()
	for i, name := range adminProcesses {
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
