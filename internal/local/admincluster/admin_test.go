package admincluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
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
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/local/programs"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/rotation"
)

// testCluster is an admin cluster at addresses that nobody else uses, whose programs are the test binary.
func testCluster(t *testing.T, loopback bool) *Cluster {
	t.Helper()
	bin, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{
		DataDir: filepath.Join(t.TempDir(), "data"), KubeBinDir: bin, ProgramDir: programDir(t),
		Network: localtest.FreeNetwork(t), Loopback: loopback,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAdminClusterLifecycle(t *testing.T) {
	c := testCluster(t, true)
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	files := Files{
		FleetKey: filepath.Join(dir, "key.json"), FleetCA: filepath.Join(dir, "ca.crt"),
		LocalCredentials: filepath.Join(dir, "credentials"),
	}
	options := CreateOptions{Kubeconfig: kubeconfig, Files: files, Progress: func(s string) { t.Log(s) }}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
		if left := localtest.ProcessesOf(t, c.host.Data.Path()); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
		if _, err := os.Stat(c.host.Data.Path()); !os.IsNotExist(err) {
			t.Errorf("data directory is left: %v", err)
		}
	})
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if _, err := c.host.Data.EnsureSite("keyturn-system.left", ""); err != nil { // goes with the admin cluster
		t.Fatal(err)
	}
	written := c.FilesLike(files)
	if len(written) != 5 {
		t.Errorf("the copies are %q", written)
	}
	for _, path := range append(written, kubeconfig) {
		if mode := localtest.FileMode(t, path); mode != 0o600 {
			t.Errorf("%s has mode %o", path, mode)
		}
	}
	checkFleet(t, c, files)
	checkServed(t, c, files)
	client := clientOf(t, kubeconfig)
	checkEncrypted(t, c, client)

	run := c.host.Runner(c.Site())
	before := pidsOf(t, c)
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatalf("again: %v", err)
	}
	if after := pidsOf(t, c); after != before {
		t.Errorf("creating it again changed processes from %v to %v", before, after)
	}
	for _, name := range processes {
		if err := run.Signal(name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if name == controllerName {
			awaitAnother(t, run, name, before)
		}
		if err := c.Create(t.Context(), options); err != nil {
			t.Fatalf("after the death of %s: %v", name, err)
		}
	}
	if _, err := client.CoreV1().Secrets("default").Get(t.Context(), "secret", metav1.GetOptions{}); err != nil {
		t.Errorf("reading the Secret after all died: %v", err)
	}
}

// awaitAnother waits until keyturn-local has started a process again.
func awaitAnother(t *testing.T, run *process.Runner, name string, before [len(processes)]int) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < localtest.Patience; time.Sleep(20 * time.Millisecond) {
		st, err := run.Observe(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Running && !slices.Contains(before[:], st.PID) {
			return
		}
	}
	t.Fatalf("%s was not started again", name)
}

// A creation that fails leaves nothing running, and does not touch what ran before.
func TestFailedCreation(t *testing.T) {
	c := testCluster(t, true)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	fleet, err := c.host.Programs.Own("keyturn-fleet")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fleet, fleet+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := c.Create(t.Context(), CreateOptions{Kubeconfig: kubeconfig})
		if err == nil || !strings.Contains(err.Error(), "keyturn-fleet") {
			t.Fatalf("without the fleet: %v", err)
		}
		if left := localtest.ProcessesOf(t, c.host.Data.Path()); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
	}
	if err := os.Rename(fleet+".away", fleet); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), CreateOptions{Kubeconfig: kubeconfig}); err != nil {
		t.Fatal(err)
	}
	before := pidsOf(t, c)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Create(cancelled, CreateOptions{Kubeconfig: kubeconfig}); err == nil {
		t.Error("no error although it was cancelled")
	}
	if after := pidsOf(t, c); after != before {
		t.Errorf("a creation that failed changed processes from %v to %v", before, after)
	}
	if err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := localtest.ProcessesOf(t, c.host.Data.Path()); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
}

// etcd is killed as soon as it has a file, at its first starts.
func TestEtcdThatIsKilledAtItsFirstStart(t *testing.T) {
	c := testCluster(t, true)
	p, err := c.parts()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(c.host.Data.KeepNetwork(), p.ensureFiles()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		// The Runner of a caller that was killed too: it knows of no failed starts.
		p.Processes = process.New(p.Path("run"))
		if err := p.EnsureEtcd(); err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); !p.Has("etcd", "member", "wal") && time.Since(begin) < localtest.Patience; {
			time.Sleep(time.Millisecond)
		}
		if err := p.Processes.Signal(programs.Etcd, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); time.Since(begin) < localtest.Patience; time.Sleep(time.Millisecond) {
			if st, err := p.Processes.Observe(programs.Etcd); err != nil || !st.Running {
				break
			}
		}
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := c.Create(t.Context(), CreateOptions{Kubeconfig: kubeconfig}); err != nil {
		t.Fatal(err)
	}
	if _, err := clientOf(t, kubeconfig).CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.host.Runner(c.Site()).Signal(programs.Etcd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), CreateOptions{Kubeconfig: kubeconfig}); err != nil {
		t.Fatal(err)
	}
	configMaps := clientOf(t, kubeconfig).CoreV1().ConfigMaps("default")
	if _, err := configMaps.Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("once it has served, its files are kept: %v", err)
	}
}

// The bridge of the fleet comes back if somebody deletes it, and is not deleted by the Keyturn of another data
// directory.
func TestBridgeOfTheFleet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("bridges need root")
	}
	c := testCluster(t, false)
	options := CreateOptions{Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
		if _, err := net.InterfaceByName(c.hostSite().Bridge()); err == nil {
			t.Error("the bridge is left")
		}
	})
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	other, err := Open(Options{
		DataDir: filepath.Join(t.TempDir(), "data"), KubeBinDir: c.host.Programs.KubeDir(), Network: c.host.Data.Network(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := other.host.Data.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	if err := other.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName(c.hostSite().Bridge()); err != nil {
		t.Errorf("the bridge after another admin cluster was deleted: %v", err)
	}
	before := pidsOf(t, c)
	if err := network.DeleteBridge(t.Context(), c.host.Data.ID(), c.hostSite().Bridge()); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if after := pidsOf(t, c); after != before {
		t.Errorf("processes were %v, are %v", before, after)
	}
}

func TestDeleteRefusesWithClusters(t *testing.T) {
	c := testCluster(t, true)
	if _, err := c.host.Data.EnsureSite("keyturn-system.alpha", ""); err != nil {
		t.Fatal(err)
	}
	err := c.Delete(t.Context(), DeleteOptions{})
	if err == nil || !strings.Contains(err.Error(), "user clusters: alpha") {
		t.Errorf("got %v", err)
	}
}

// checkFleet registers a cluster with the key and the certificate that the user gets, by Google's client.
func checkFleet(t *testing.T, c *Cluster, files Files) {
	t.Helper()
	key, err := os.ReadFile(files.FleetKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.FleetCA)
	if err != nil {
		t.Fatal(err)
	}
	membership, err := gkehub.New(t.Context(), gkehub.Options{
		ProjectID: "my-project", Location: "global", Membership: "alpha", ExternalID: "uid", Issuer: v1alpha1.DefaultIssuer,
		Endpoint: c.FleetEndpoint(), STSEndpoint: c.FleetEndpoint(), CABundle: ca, CredentialsJSON: key,
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

// checkServed observes a cluster by keyturn-local, with the credentials that the user gets.
func checkServed(t *testing.T, c *Cluster, files Files) {
	t.Helper()
	client, err := remote.NewClient(c.LocalEndpoint(), remote.CredentialsIn(files.LocalCredentials))
	if err != nil {
		t.Fatal(err)
	}
	uc := localtest.UserCluster("alpha", 1)
	state, err := client.ControlPlane(uc).Observe(t.Context())
	if err != nil || state.Presence != rotation.PresenceAbsent {
		t.Errorf("a cluster that does not exist is observed as %+v, %v", state, err)
	}
	if list, err := client.Machines(uc).List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("it has the machines %v, %v", list, err)
	}
}

// checkEncrypted makes a Secret and looks for what it says in etcd's files.
func checkEncrypted(t *testing.T, c *Cluster, client *kubernetes.Clientset) {
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
	err := filepath.WalkDir(c.Site().Path("etcd"), func(path string, e os.DirEntry, err error) error {
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

func pidsOf(t *testing.T, c *Cluster) (pids [len(processes)]int) {
	t.Helper()
	for i, name := range processes {
		st, err := c.host.Runner(c.Site()).Observe(name)
		if err != nil || !st.Running {
			t.Fatalf("%s: %+v, %v", name, st, err)
		}
		pids[i] = st.PID
	}
	return pids
}
