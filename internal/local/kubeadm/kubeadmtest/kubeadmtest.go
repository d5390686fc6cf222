// Package kubeadmtest gives tests clusters that kubeadm makes on this host.
package kubeadmtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/image"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

// Cluster is a cluster of one test.
type Cluster struct {
	*kubeadm.Cluster
	t   *testing.T
	dir string
}

// New makes the directory of a cluster for one test, which needs root. Of the options, the test chooses those that may
// stay empty, but for Images. Its machines have the images of the named programs of Keyturn, as Image names them. When
// the test ends, nothing of the cluster may be left, unless KEYTURN_TEST_KEEP names a directory to keep clusters in:
// then its machines are halted, and the next run of the test starts them with programs that are built again.
func New(t *testing.T, options kubeadm.Options, programs ...string) *Cluster {
	t.Helper()
	options.Name, options.Version, options.KubeBinDir = "test", kubetest.Version, BinDir(t)
	options.BinDir = Build(t, append([]string{"keyturn-machine", "keyturn-pause"}, programs...)...)
	options.Images = Pack(t, options.BinDir, programs)
	kept := locate(t, &options)
	c, err := kubeadm.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	test := &Cluster{Cluster: c, t: t, dir: options.Dir}
	t.Cleanup(func() {
		test.keepPods()
		if kept {
			test.halt(options)
			return
		}
		test.Must(c.Delete(context.Background()))
		if slices.ContainsFunc(addresses(t), options.Network.Overlaps) {
			t.Errorf("an interface in %s is left behind", options.Network)
		}
	})
	return test
}

// locate chooses the directory and the network of a cluster, and reports whether it is one that is kept.
func locate(t *testing.T, o *kubeadm.Options) (kept bool) {
	t.Helper()
	o.Network = freeNetwork(t)
	keep := os.Getenv("KEYTURN_TEST_KEEP")
	if keep == "" {
		o.Dir = filepath.Join(t.TempDir(), "cluster")
		return false
	}
	o.Dir = filepath.Join(keep, t.Name())
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Its certificates name its addresses, so it has the same ones each time.
	file := filepath.Join(o.Dir, "network")
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		raw = []byte(o.Network.String())
		err = os.WriteFile(file, raw, 0o600)
	}
	if err == nil {
		err = o.Network.UnmarshalText(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// halt ends the machines of a cluster that is kept.
func (c *Cluster) halt(o kubeadm.Options) {
	names, err := c.Machines()
	c.Must(err)
	for _, name := range names {
		c.Must(c.Halt(name))
	}
	c.t.Logf("the cluster is kept; to remove it: go run ./tools/kubeadm -dir %s -network %s -version %s -kube %s down",
		o.Dir, o.Network, o.Version, o.KubeBinDir)
}

// In returns the cluster for a part of the test.
func (c *Cluster) In(t *testing.T) *Cluster { return &Cluster{Cluster: c.Cluster, t: t, dir: c.dir} }

// BinDir returns the directory of Kubernetes' programs. A test is skipped without root, which machines need, and where
// somebody else's Kubernetes has no kubeadm or CoreDNS.
func BinDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines need root")
	}
	bin, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"kubeadm", "coredns"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err == nil {
			continue
		}
		if os.Getenv("KEYTURN_KUBE_BIN_DIR") != "" {
			t.Skipf("the directory that KEYTURN_KUBE_BIN_DIR names has no %s", program)
		}
		t.Fatalf("%s has no %s: run `make kubeadm`", bin, program)
	}
	return bin
}

// Build builds programs of Keyturn, and returns their directory.
func Build(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	var packages []string
	for _, program := range programs {
		packages = append(packages, "github.com/keyturn/keyturn/cmd/"+program)
	}
	kubetest.Build(t, dir, packages...)
	return dir
}

// Image is the image that the machines have of a program of Keyturn.
func Image(program string) string { return "localhost/keyturn/" + program + ":dev" }

// Pack makes the images of programs, and returns the directory of their archives.
func Pack(t *testing.T, dir string, programs []string) string {
	t.Helper()
	archives := t.TempDir()
	for _, program := range programs {
		p, ok := image.Programs[program]
		if !ok {
			continue // it is one of those that every machine gets, such as the probe
		}
		to := filepath.Join(archives, program+".tar")
		if err := image.Build(to, Image(program), filepath.Join(dir, program), image.Config{User: p.User}); err != nil {
			t.Fatal(err)
		}
	}
	return archives
}

// keepPods shows the pods of a cluster whose test failed.
func (c *Cluster) keepPods() {
	if !c.t.Failed() {
		return
	}
	config, err := c.Config()
	if err != nil {
		c.t.Log(err)
		return
	}
	pods, err := kubernetes.NewForConfigOrDie(config).CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Log(err)
		return
	}
	for _, p := range pods.Items {
		c.t.Logf("pod %s on %s is %s: %+v", p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.ContainerStatuses)
	}
}

// freeNetwork finds a /24 that no interface of the host has.
func freeNetwork(t *testing.T) netip.Prefix {
	t.Helper()
	taken := addresses(t)
	for i := range 250 {
		free := netip.MustParsePrefix(fmt.Sprintf("10.94.%d.0/24", (os.Getpid()+i)%250))
		if !slices.ContainsFunc(taken, free.Overlaps) {
			return free
		}
	}
	t.Fatal("no free network")
	return netip.Prefix{}
}

// addresses returns the addresses of the host's interfaces.
func addresses(t *testing.T) (all []netip.Prefix) {
	t.Helper()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Must fails the test if there is an error.
func (c *Cluster) Must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// Client reaches the cluster as its administrator.
func (c *Cluster) Client() *kubernetes.Clientset {
	c.t.Helper()
	config, err := c.Config()
	if err != nil {
		c.t.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(config)
}

// Eventually waits until a check finds nothing missing, for as long as one change of a cluster may take.
func (c *Cluster) Eventually(what string, check func(context.Context) error) {
	c.t.Helper()
	c.Within(3*time.Minute, what, check)
}

// Within waits for some time until a check finds nothing missing.
func (c *Cluster) Within(limit time.Duration, what string, check func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("waiting for %s: %v", what, errors.Join(err, ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
