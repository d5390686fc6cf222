// Package kubeadmtest gives tests clusters that kubeadm makes on this host.
package kubeadmtest

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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/image"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

// Cluster is a cluster of one test.
type Cluster struct {
	*kubeadm.Cluster
	t *testing.T
}

// New makes the directory of a cluster for one test, which needs root. Its machines have the images of the named programs
// of Keyturn, as Image names them. When the test ends, nothing of the cluster may be left.
func New(t *testing.T, programs ...string) *Cluster {
	t.Helper()
	bin := BinDir(t)
	own := Build(t, append([]string{"keyturn-machine", "keyturn-pause"}, programs...)...)
	network := freeNetwork(t)
	c, err := kubeadm.Open(kubeadm.Options{
		Name: "test", Dir: filepath.Join(t.TempDir(), "cluster"), Network: network,
		Version: kubetest.Version, KubeBinDir: bin, BinDir: own, Images: Pack(t, own, programs),
	})
	if err != nil {
		t.Fatal(err)
	}
	test := &Cluster{Cluster: c, t: t}
	t.Cleanup(func() {
		test.keepPods()
		test.Must(c.Delete(context.Background()))
		if slices.ContainsFunc(addresses(t), network.Overlaps) {
			t.Errorf("an interface in %s is left behind", network)
		}
	})
	return test
}

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
		_, err := os.Stat(filepath.Join(bin, program))
		if err != nil && os.Getenv("KEYTURN_KUBE_BIN_DIR") != "" {
			t.Skipf("the directory that KEYTURN_KUBE_BIN_DIR names has no %s", program)
		}
	}
	return bin
}

// Build builds programs of Keyturn, and returns their directory.
func Build(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-ldflags", "-s -w", "-o", dir + "/"}
	for _, program := range programs {
		args = append(args, "github.com/keyturn/keyturn/cmd/"+program)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %v: %v\n%s", programs, err, out)
	}
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

// addresses are those of the host's interfaces.
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

// Eventually waits until a check finds nothing missing.
func (c *Cluster) Eventually(what string, check func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
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
