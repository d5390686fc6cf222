package kubeadm

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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestCluster makes a cluster of two nodes and uses it as its owner would.
func TestCluster(t *testing.T) {
	c := newCluster(t)
	began := time.Now()
	c.must(c.Start(t.Context(), "cp-1", ControlPlane))
	c.must(c.Start(t.Context(), "worker-1", Worker))
	c.must(c.Init(t.Context(), "cp-1"))
	t.Logf("kubeadm init after %.1f s", time.Since(began).Seconds())
	c.must(c.Join(t.Context(), "worker-1", Worker))
	t.Logf("kubeadm join after %.1f s", time.Since(began).Seconds())
	client := c.client()
	c.eventually("both nodes to be ready", func(ctx context.Context) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && (len(list.Items) != 2 || slices.ContainsFunc(list.Items, notReady)) {
			err = fmt.Errorf("nodes are %v", list.Items)
		}
		return err
	})
	t.Logf("nodes ready after %.1f s", time.Since(began).Seconds())
	c.eventually("CoreDNS to be available", func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 2 {
			err = fmt.Errorf("%d replicas of CoreDNS are available", d.Status.AvailableReplicas)
		}
		return err
	})
	t.Logf("CoreDNS available after %.1f s", time.Since(began).Seconds())
	for _, file := range []string{"sa.key", "sa.pub"} {
		if raw, err := c.readFile("cp-1", "/etc/kubernetes/pki/"+file); err != nil || len(raw) == 0 {
			t.Errorf("%s is %d bytes, %v", file, len(raw), err)
		}
	}
}

func notReady(n corev1.Node) bool {
	return !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// cluster is a Cluster of one test.
type cluster struct {
	*Cluster
	t *testing.T
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines need root")
	}
	bin, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	for _, program := range []string{"keyturn-machine", "keyturn-pause"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", own+"/", "../../../cmd/"+program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", program, err, out)
		}
	}
	c, err := Open(Options{
		Name: "test", Dir: filepath.Join(t.TempDir(), "cluster"), Network: freeNetwork(t),
		Version: kubetest.Version, KubeBinDir: bin, BinDir: own,
	})
	if err != nil {
		t.Fatal(err)
	}
	test := &cluster{Cluster: c, t: t}
	t.Cleanup(func() {
		test.keepPods()
		test.must(c.Delete(context.Background()))
		if left, err := net.InterfaceByName(c.bridge()); err == nil {
			t.Errorf("left behind: %s", left.Name)
		}
	})
	return test
}

// keepPods shows the pods of a cluster whose test failed.
func (c *cluster) keepPods() {
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
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 {
		free := netip.MustParsePrefix(fmt.Sprintf("10.94.%d.0/24", (os.Getpid()+i)%250))
		if !slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Overlaps(free)
		}) {
			return free
		}
	}
	t.Fatal("no free network")
	return netip.Prefix{}
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) client() *kubernetes.Clientset {
	c.t.Helper()
	config, err := c.Config()
	if err != nil {
		c.t.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(config)
}

func (c *cluster) eventually(what string, check func(context.Context) error) {
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
