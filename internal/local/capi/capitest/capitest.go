// Package capitest gives tests a management cluster with Cluster API, whose machines run on this host.
package capitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/process"
)

// Version is the version of Cluster API, which tools/capi pins.
const Version = "v1.14.2"

// Bed is a management cluster of one test.
type Bed struct {
	*capi.Management
	// Config reaches the management cluster as its administrator.
	Config *rest.Config
	Client client.Client

	t        *testing.T
	options  capi.Options
	clusters []capi.Cluster
}

// New starts a management cluster and Cluster API in it, if KEYTURN_TEST_CAPI is set, and KEYTURN_TEST_LONG does as
// well. It needs root. The machines have the images of the named programs of Keyturn, as kubeadmtest.Image names them.
// When the test ends, its clusters are deleted, and nothing of them may be left.
func New(t *testing.T, programs ...string) *Bed {
	t.Helper()
	if os.Getenv("KEYTURN_TEST_CAPI") == "" && os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it needs Cluster API: `make test-capi` runs it")
	}
	own := kubeadmtest.Build(t, append([]string{"keyturn-machine", "keyturn-pause"}, programs...)...)
	return start(t, capi.Options{
		MachineDir: filepath.Join(t.TempDir(), "machines"), BinDir: binDir(t), KubeBinDir: kubeadmtest.BinDir(t),
		ProgramDir: own, Images: kubeadmtest.Pack(t, own, programs),
	})
}

// Another starts another management cluster of the same machines, to which a cluster can be moved.
func (b *Bed) Another() *Bed {
	b.t.Helper()
	return start(b.t, b.options)
}

// start starts a management cluster, in a directory and a network of its own.
func start(t *testing.T, o capi.Options) *Bed {
	t.Helper()
	dir := t.TempDir()
	o.Dir, o.Networks = filepath.Join(dir, "capi"), localtest.FreeNetwork(t)
	b := &Bed{t: t, options: o, Management: capi.New(o)}
	t.Cleanup(func() { b.verifyNothingIsLeft(o.Networks) })
	address, err := b.StartNetwork(t.Context())
	b.Must(err)
	t.Cleanup(func() { b.Must(b.Stop(context.Background())) })
	b.Config = kubetest.Start(t, kubetest.Options{Address: netip.AddrPortFrom(address, 6443)})
	b.Client, err = client.New(b.Config, client.Options{})
	b.Must(err)
	startControllerManager(t, o.KubeBinDir, filepath.Join(dir, "kube-controller-manager"), b.Config)
	t.Cleanup(b.deleteClusters)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b.Must(b.Start(ctx, b.Config))
	return b
}

// binDir is the output of `make capi`.
func binDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KEYTURN_CAPI_BIN_DIR")
	if dir == "" {
		root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(string(root[:len(root)-1]), "bin", "capi", Version)
	}
	if _, err := os.Stat(filepath.Join(dir, "keyturn-capi")); err != nil {
		t.Fatalf("finding Cluster API, which `make capi` builds, or KEYTURN_CAPI_BIN_DIR names: %v", err)
	}
	return dir
}

// startControllerManager runs the controllers that Cluster API counts on: it leaves what has an owner to the garbage
// collector, and its core role is an aggregated one.
func startControllerManager(t *testing.T, kube, dir string, config *rest.Config) {
	t.Helper()
	const name = "kube-controller-manager"
	runner := process.New(dir)
	t.Cleanup(func() {
		if err := runner.Await(context.Background(), name, 10*time.Second); err != nil {
			t.Error(err)
		}
	})
	err := runner.Start(process.Spec{Name: name, Path: filepath.Join(kube, name), Args: []string{
		"--kubeconfig=" + kubetest.WriteKubeconfig(t, config), "--leader-elect=false", "--secure-port=0",
		"--controllers=clusterrole-aggregation-controller,garbage-collector-controller,namespace-controller",
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// Make makes a cluster, which is deleted when the test ends.
func (b *Bed) Make(c capi.Cluster) {
	b.t.Helper()
	objects, err := c.Manifests()
	b.Must(err)
	b.clusters = append(b.clusters, c)
	for _, o := range objects {
		b.Must(capi.Apply(b.t.Context(), b.Client, o))
	}
}

// Move has clusterctl move all clusters to another management cluster.
func (b *Bed) Move(to *Bed) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), filepath.Join(b.options.BinDir, "clusterctl"), "move",
		"--kubeconfig", kubetest.WriteKubeconfig(b.t, b.Config), "--to-kubeconfig", kubetest.WriteKubeconfig(b.t, to.Config),
		"--namespace", "default", "-v", "1")
	cmd.Env = append(os.Environ(), "CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+b.t.TempDir())
	out, err := cmd.CombinedOutput()
	b.t.Logf("clusterctl move:\n%s", out)
	b.Must(err)
	b.clusters, to.clusters = nil, append(to.clusters, b.clusters...)
}

// Delete deletes a cluster and waits until it is gone.
func (b *Bed) Delete(c capi.Cluster) {
	b.t.Helper()
	ctx := context.Background() // it is a test's cleanup too
	object := b.Object("cluster.x-k8s.io/v1beta2", "Cluster", c)
	b.Must(client.IgnoreNotFound(b.Client.Delete(ctx, object)))
	b.eventually(ctx, "cluster "+c.Name+" to be gone", func(ctx context.Context) error {
		err := b.Client.Get(ctx, client.ObjectKeyFromObject(object), object)
		if err == nil {
			conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
			return fmt.Errorf("it is there: %v", conditions)
		}
		return client.IgnoreNotFound(err)
	})
	b.clusters = slices.DeleteFunc(b.clusters, func(other capi.Cluster) bool { return other == c })
}

// deleteClusters deletes what a test left. What the programs wrote is shown first if the test failed.
func (b *Bed) deleteClusters() {
	if b.t.Failed() {
		b.show()
	}
	for _, c := range slices.Clone(b.clusters) {
		b.Delete(c)
	}
}

// show writes what may tell why a test failed.
func (b *Bed) show() {
	for _, program := range capi.Programs() {
		b.t.Logf("%s:\n%s", program, b.Log(program))
	}
	for _, kind := range []string{"LocalCluster", "LocalMachine"} {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("infrastructure.keyturn.dev/v1alpha1")
		list.SetKind(kind + "List")
		if err := b.Client.List(context.Background(), list); err != nil {
			b.t.Log(err)
		}
		for _, o := range list.Items {
			b.t.Logf("%s %s: %v", kind, o.GetName(), o.Object["status"])
		}
	}
}

// Object is an object of a cluster that has its name, to be read.
func (b *Bed) Object(apiVersion, kind string, c capi.Cluster) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(c.Namespace)
	o.SetName(c.Name)
	return o
}

// Workload reaches a cluster as its administrator, once Cluster API has made its kubeconfig.
func (b *Bed) Workload(c capi.Cluster) *kubernetes.Clientset {
	b.t.Helper()
	secret := &corev1.Secret{}
	b.Eventually("the kubeconfig of cluster "+c.Name, func(ctx context.Context) error {
		return b.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: c.Name + "-kubeconfig"}, secret)
	})
	config, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["value"])
	b.Must(err)
	return kubernetes.NewForConfigOrDie(config)
}

// Must fails the test if there is an error.
func (b *Bed) Must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// Eventually waits until a check finds nothing missing.
func (b *Bed) Eventually(what string, check func(context.Context) error) {
	b.t.Helper()
	b.eventually(b.t.Context(), what, check)
}

func (b *Bed) eventually(ctx context.Context, what string, check func(context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("waiting for %s: %v", what, errors.Join(err, ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *Bed) verifyNothingIsLeft(networks netip.Prefix) {
	list, err := net.InterfaceAddrs()
	b.Must(err)
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && networks.Overlaps(p) {
			b.t.Errorf("an interface with address %s is left behind", p)
		}
	}
}
