package machines

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/nodes"
)

func TestPodRange(t *testing.T) {
	for _, c := range []struct {
		podCIDR string
		slot    int
		want    string
	}{
		{"192.168.0.0/16", 0, "192.168.0.0/24"},
		{"192.168.0.0/16", 149, "192.168.149.0/24"},
		{"10.0.0.0/8", 149, "10.0.149.0/24"},
		{"10.1.254.0/23", 1, "10.1.255.0/24"},
		{"10.1.254.0/23", 2, ""},
		{"10.1.2.0/24", 0, "10.1.2.0/24"},
		{"10.1.2.0/25", 0, ""},
		{"fd00::/48", 0, ""},
	} {
		got, ok := podRange(netip.MustParsePrefix(c.podCIDR), c.slot)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("podRange(%s, %d) = %s, %t; want %q", c.podCIDR, c.slot, got, ok, c.want)
		}
	}
}

// The machines of another cluster's site are none of this one, and those of another data directory are an error.
func TestMachinesOfAnotherCluster(t *testing.T) {
	h := plane.New(localtest.Data(t), localtest.NoPrograms(t), nil)
	one, other := localtest.UserCluster("alpha", 1), localtest.UserCluster("alpha", 1)
	other.UID = "another"
	if _, err := h.Data.EnsureSite(datadir.SiteName(one), one.UID); err != nil {
		t.Fatal(err)
	}
	machines, err := Of(h, other)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := machines.List(t.Context()); len(all) > 0 || err != nil {
		t.Errorf("machines %v, %v", all, err)
	}
	one.Status.Infrastructure.Local = &v1alpha1.LocalInfrastructureStatus{Home: "elsewhere"}
	if _, err := Of(h, one); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("of a cluster that lives elsewhere: %v", err)
	}
}

func TestMachinesNeedRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("this is what happens without root")
	}
	m, err := Of(plane.New(localtest.Data(t), localtest.NoPrograms(t), nil), localtest.UserCluster("rootless", 1))
	if err != nil {
		t.Fatal(err)
	}
	err = m.Ensure(t.Context(), nodes.Machine{Name: "a"}, v1alpha1.NodePool{Name: "p"})
	if err == nil || !strings.Contains(err.Error(), "node pools need root: ") {
		t.Errorf("got %v; want the reason", err)
	}
}

func TestMachines(t *testing.T) {
	n := newNodeTest(t)
	begin := time.Now()
	n.ensure("blue-a")
	node := n.awaitReady("blue-a", begin)
	t.Logf("first node ready: %.1f s", time.Since(begin).Seconds())
	begin = time.Now()
	n.ensure("blue-b")
	n.awaitReady("blue-b", begin)
	t.Logf("second node ready: %.1f s", time.Since(begin).Seconds())

	for label, want := range map[string]string{
		v1alpha1.LabelNodePool: "blue", v1alpha1.LabelKeyVersion: "1", "example.com/color": "blue",
	} {
		if got := node.Labels[label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
	n.run("processes lack what reaches the host", (*nodeTest).testCapabilities)
	n.run("pods reach what they need", (*nodeTest).testPods)
	n.run("the bootstrap token goes", (*nodeTest).testToken)
	n.run("a kubelet that dies comes back", (*nodeTest).testKubelet)
	n.run("a kube-proxy that dies keeps the services", (*nodeTest).testKubeProxy)
	n.run("a machine that dies comes back", (*nodeTest).testMachine)
	n.run("a removed machine leaves nothing", (*nodeTest).testRemove)
}

// testCapabilities checks the kubelet: all in a machine descends from it or its siblings.
func (n *nodeTest) testCapabilities() {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.processIn("blue-a", "/opt/keyturn/kubelet")))
	if err != nil {
		n.Fatal(err)
	}
	const readSearch, module, rawIO, boot, clock = 1 << 2, 1 << 16, 1 << 17, 1 << 22, 1 << 25
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if name != "CapPrm" && name != "CapEff" && name != "CapBnd" {
			continue
		}
		set, err := strconv.ParseUint(value, 16, 64)
		if err != nil || set == 0 || set&(readSearch|module|rawIO|boot|clock) != 0 {
			n.Errorf("%s is %s, %v", name, value, err)
		}
	}
}

func (n *nodeTest) testPods() {
	n.pod("server", "blue-a", "serve")
	server := n.awaitPod("server", corev1.PodRunning)
	service := n.service("server", "server")
	calls := []struct{ name, node, url, text string }{
		{"api-by-service", "blue-b", "https://" + n.kubernetesService() + "/version", "gitVersion"},
		{"pod-same-node", "blue-a", "http://" + server + ":8080/", "hello 10.244.0."},
		{"pod-other-node", "blue-b", "http://" + server + ":8080/", "hello 10.244.1."},
		{"service-same-node", "blue-a", "http://" + service + "/", "hello 10.244.0."},
		{"service-other-node", "blue-b", "http://" + service + "/", "hello 10.244.1."},
		{"name-of-a-service", "blue-b", "http://server/", "hello 10.244.1."},
		{"name-of-the-api", "blue-b", "https://kubernetes.default.svc.cluster.local/version", "gitVersion"},
		{"host", "blue-a", "https://" + n.machines.site.APIServer(0).String() + ":6443/version", "gitVersion"},
	}
	for _, c := range calls {
		n.pod(c.name, c.node, "get", c.url, c.text)
	}
	for _, c := range calls {
		n.awaitPod(c.name, corev1.PodSucceeded)
	}
	logs, err := n.client.CoreV1().Pods("default").GetLogs("api-by-service", &corev1.PodLogOptions{}).DoRaw(n.Context())
	if err != nil || !strings.Contains(string(logs), "200 OK") {
		n.Errorf("logs by the API: %q, %v", logs, err)
	}
}

func (n *nodeTest) testToken() {
	n.ensure("blue-a")
	for _, name := range []string{"blue-a", "blue-b"} {
		path := filepath.Join(n.machines.set.Dir, name, "var/lib/kubelet/bootstrap.conf")
		_, err := os.Stat(path)
		if gone := os.IsNotExist(err); gone != (name == "blue-a") {
			n.Errorf("%s: gone is %t; only blue-a was looked after since it joined", path, gone)
		}
	}
	secrets, err := n.client.CoreV1().Secrets("kube-system").List(n.Context(),
		metav1.ListOptions{LabelSelector: labelBootstrapToken})
	if err != nil || len(secrets.Items) != 1 {
		n.Errorf("got %d bootstrap tokens, %v; want one for both machines", len(secrets.Items), err)
	}
}

func (n *nodeTest) testKubelet() {
	before := n.processIn("blue-b", "/opt/keyturn/kubelet")
	n.killIn("blue-b", "/opt/keyturn/kubelet")
	n.awaitReady("blue-b", time.Now().Add(time.Second))
	if after := n.processIn("blue-b", "/opt/keyturn/kubelet"); after == 0 || after == before {
		n.Errorf("kubelet was %d, is %d", before, after)
	}
}

func (n *nodeTest) testKubeProxy() {
	before := n.service("before", "server")
	n.pod("before", "blue-b", "get", "http://"+before+"/")
	n.awaitPod("before", corev1.PodSucceeded)
	n.killIn("blue-b", "/opt/keyturn/kube-proxy")
	// Once a service made since works, kube-proxy has brought its rules up to date.
	since := n.service("since", "server")
	n.pod("since", "blue-b", "get", "http://"+since+"/")
	n.awaitPod("since", corev1.PodSucceeded)
	n.podOnce("still", "blue-b", "get", "http://"+before+"/")
	n.awaitPod("still", corev1.PodSucceeded)
}

func (n *nodeTest) testMachine() {
	before := n.identity("blue-a")
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		run := process.New(filepath.Join(n.machines.set.Dir, "blue-a", "run"))
		if err := run.Signal("machine", signal); err != nil {
			n.Fatal(err)
		}
		n.eventually("end of blue-a", func() error {
			list, err := n.machines.List(n.Context())
			if err == nil && list[0].Running {
				err = errors.New("it runs")
			}
			return err
		})
		begin := time.Now()
		n.ensure("blue-a")
		n.awaitReady("blue-a", begin.Add(time.Second))
		n.Logf("ready again after %s: %.1f s", signal, time.Since(begin).Seconds())
		if after := n.identity("blue-a"); after != before {
			n.Errorf("it was %s, is %s", before, after)
		}
	}
	n.pod("after-restart", "blue-a", "get", "https://"+n.kubernetesService()+"/version")
	n.awaitPod("after-restart", corev1.PodSucceeded)
	n.awaitPod("server", corev1.PodRunning)
}

// identity is what a node keeps when its machine is started again.
func (n *nodeTest) identity(name string) string {
	n.Helper()
	node, err := n.client.CoreV1().Nodes().Get(n.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return fmt.Sprintf("%s %s %v", node.UID, node.Status.NodeInfo.MachineID, node.Status.Addresses)
}

func (n *nodeTest) testRemove() {
	for kind, found := range n.traces() {
		if len(found) == 0 {
			n.Errorf("no %s found of running machines: the test looks in the wrong place", kind)
		}
	}
	n.remove("blue-b")
	list, err := n.machines.List(n.Context())
	if err != nil || len(list) != 1 || list[0].Name != "blue-a" || !list[0].Running {
		n.Errorf("left are %+v, %v", list, err)
	}
	if gone, err := n.machines.Remove(n.Context(), "blue-b"); !gone || err != nil {
		n.Errorf("removing it again: %t, %v", gone, err)
	}
	if _, err := os.Stat(filepath.Join(n.machines.set.Dir, "blue-b")); !os.IsNotExist(err) {
		n.Errorf("its directory: %v", err)
	}
	n.awaitReady("blue-a", time.Now())
}
