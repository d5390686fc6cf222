package machines

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/image"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/nodes"
)

const callerImage = "localhost/keyturn/caller:dev"

// nodeTest is a cluster with a control plane, and its machines.
type nodeTest struct {
	*testing.T
	localtest.Driver
	host     *plane.Host
	machines *Machines
	client   *kubernetes.Clientset
	pool     v1alpha1.NodePool
	// key is key version 1.
	key keystore.KeyPair
}

// newNodeTest brings up a control plane on a bridge of its own. When the test ends, nothing of it may be left.
func newNodeTest(t *testing.T) *nodeTest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines need root")
	}
	h := plane.New(localtest.RealData(t, false), localtest.Programs(t, ""), nil)
	n := &nodeTest{T: t, host: h}
	n.Driver = localtest.Driver{
		T: t, UC: localtest.UserCluster("nodes", 1), Data: h.Data,
		Open: func() controlplane.Adapter { return h.ControlPlane(n.UC) },
	}
	n.UC.Spec.Infrastructure.Local.Network.PodCIDR = "10.244.0.0/16"
	n.pool = v1alpha1.NodePool{Name: "blue", Labels: map[string]string{"example.com/color": "blue"}}
	t.Cleanup(func() {
		n.removeAll()
		n.Delete()
		for kind, left := range n.traces() {
			if len(left) > 0 {
				t.Errorf("%s left behind: %q", kind, left)
			}
		}
	})
	keys := controlplane.Keys{Verify: []int{1}, Sign: 1}
	n.key = localtest.Key(t, 1)
	n.Until("control plane", controlplane.Target{Keys: keys, ControllerManagerSign: 1}, []keystore.KeyPair{n.key},
		localtest.Ready)
	n.client = n.Driver.Client("")
	n.useMachines()
	return n
}

// run runs a part of the test as a test of its own, for which the others need not fail.
func (n *nodeTest) run(name string, part func(*nodeTest)) {
	n.T.Run(name, func(t *testing.T) {
		own := *n
		own.T, own.Driver.T = t, t
		part(&own)
	})
}

// useMachines gets the machines' programs built; `go test` has none beside it.
func (n *nodeTest) useMachines() {
	n.Helper()
	m, err := Of(n.host, n.UC)
	if err != nil {
		n.Fatal(err)
	}
	n.machines = m
	n.machines.binDir = n.TempDir()
	n.machines.set.Init = filepath.Join(n.machines.binDir, "keyturn-machine")
	kubetest.Build(n.T, n.machines.binDir, "../../../cmd/keyturn-machine", "../../../cmd/keyturn-pause",
		"./testdata/caller")
	if err := image.EnsureArchives(n.machines.set.Images, n.machines.binDir); err != nil {
		n.Fatal(err)
	}
	if err := image.Build(filepath.Join(n.machines.set.Images, "caller.tar"), callerImage,
		filepath.Join(n.machines.binDir, "caller"), image.Config{}); err != nil {
		n.Fatal(err)
	}
}

func (n *nodeTest) ensure(name string) {
	n.Helper()
	if err := n.machines.Ensure(n.Context(), nodes.Machine{Name: name, KeyVersion: 1}, n.pool); err != nil {
		n.Fatal(err)
	}
}

// remove removes a machine as the owner of its Node does.
func (n *nodeTest) remove(name string) {
	n.Helper()
	begin := time.Now()
	n.eventually("removal of "+name, func() error {
		gone, err := n.machines.Remove(context.Background(), name)
		if err == nil && !gone {
			err = fmt.Errorf("%s is not gone", name)
		}
		return err
	})
	n.Logf("removal of %s: %.2f s", name, time.Since(begin).Seconds())
}

func (n *nodeTest) removeAll() {
	if n.machines == nil {
		return
	}
	n.keepLogs()
	list, err := n.machines.List(context.Background())
	if err != nil {
		n.Error(err)
	}
	for _, m := range list {
		n.remove(m.Name)
	}
}

// keepLogs shows what the machines of a test that failed had to say.
func (n *nodeTest) keepLogs() {
	if !n.Failed() {
		return
	}
	for _, pattern := range []string{"*/run/machine.log", "*/var/log/*.log"} {
		logs, _ := filepath.Glob(filepath.Join(n.machines.set.Dir, pattern))
		for _, path := range logs {
			raw, _ := os.ReadFile(path)
			n.Logf("%s:\n%s", path, raw[max(0, len(raw)-1500):])
		}
	}
}

// eventually repeats try until it returns nil.
func (n *nodeTest) eventually(what string, try func() error) {
	n.Helper()
	n.within(localtest.Patience, what, try)
}

func (n *nodeTest) within(limit time.Duration, what string, try func() error) {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			n.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// awaitReady waits until the Node is ready by what its kubelet said after since.
func (n *nodeTest) awaitReady(name string, since time.Time) *corev1.Node {
	n.Helper()
	var node *corev1.Node
	n.eventually("node "+name, func() (err error) {
		if node, err = n.client.CoreV1().Nodes().Get(n.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			// Times in conditions are whole seconds.
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue &&
				!c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
				return nil
			}
		}
		return fmt.Errorf("not ready: %+v", node.Status.Conditions)
	})
	return node
}

// pod makes a pod on a node that runs caller with the arguments, until it succeeds.
func (n *nodeTest) pod(name, node string, args ...string) {
	n.Helper()
	n.createPod(name, node, corev1.RestartPolicyOnFailure, args)
}

// podOnce makes a pod that must succeed at once.
func (n *nodeTest) podOnce(name, node string, args ...string) {
	n.Helper()
	n.createPod(name, node, corev1.RestartPolicyNever, args)
}

func (n *nodeTest) createPod(name, node string, restart corev1.RestartPolicy, args []string) {
	n.Helper()
	grace := int64(1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: restart, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "caller", Image: callerImage, ImagePullPolicy: corev1.PullNever, Args: args}},
		},
	}
	// Its ServiceAccount is made by kube-controller-manager.
	n.eventually("creation of pod "+name, func() error {
		_, err := n.client.CoreV1().Pods("default").Create(n.Context(), pod, metav1.CreateOptions{})
		return err
	})
}

// awaitPod waits for the phase of a pod and returns its address.
func (n *nodeTest) awaitPod(name string, phase corev1.PodPhase) string {
	n.Helper()
	var address string
	n.eventually("pod "+name, func() error {
		pod, err := n.client.CoreV1().Pods("default").Get(n.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if address = pod.Status.PodIP; pod.Status.Phase != phase || address == "" {
			log, _ := n.client.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(n.Context())
			return fmt.Errorf("it is %s %+v: %s", pod.Status.Phase, pod.Status.ContainerStatuses, log)
		}
		return nil
	})
	return address
}

func (n *nodeTest) service(name, pod string) string {
	n.Helper()
	s, err := n.client.CoreV1().Services("default").Create(n.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"name": pod},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// processIn finds a process of a machine by the path of its program.
func (n *nodeTest) processIn(machine, program string) int {
	n.Helper()
	for _, pid := range n.processesIn(machine, program) {
		return pid
	}
	return 0
}

func (n *nodeTest) processesIn(machine, program string) (found []int) {
	n.Helper()
	state, _, err := n.machines.set.Look(machine)
	if err != nil {
		n.Fatal(err)
	}
	group, err := cgroup.Open(state.Spec.Group)
	if err != nil {
		n.Fatal(err)
	}
	pids, err := group.Processes()
	if err != nil {
		n.Fatal(err)
	}
	for _, pid := range pids {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil &&
			strings.HasPrefix(string(raw), program+"\x00") {
			found = append(found, pid)
		}
	}
	return found
}

func (n *nodeTest) killIn(machine, program string) {
	n.Helper()
	pid := n.processIn(machine, program)
	if pid == 0 {
		n.Fatalf("machine %s runs no %s", machine, program)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.Fatal(err)
	}
}

func (n *nodeTest) kubernetesService() string {
	n.Helper()
	s, err := n.client.CoreV1().Services("default").Get(n.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// traces is what can be seen on this host of the test's cluster, by kind.
func (n *nodeTest) traces() map[string][]string {
	n.Helper()
	site := n.machines.site
	bridge := site.Bridge()
	ends := fmt.Sprintf("kt%x", site.Gateway().AsSlice()[:3])
	is := func(name string) bool { return strings.HasPrefix(name, bridge) || strings.HasPrefix(name, ends) }
	found := map[string][]string{}
	keep := func(kind, pattern string) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			n.Fatal(err)
		}
		for _, p := range paths {
			if is(filepath.Base(p)) {
				found[kind] = append(found[kind], p)
			}
		}
	}
	found["links"], found["groups"], found["processes"] = nil, nil, nil
	keep("links", "/sys/class/net/*")
	keep("groups", "/sys/fs/cgroup/keyturn/*")
	keep("groups", "/sys/fs/cgroup/*/keyturn/*")
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		n.Fatal(err)
	}
	for _, table := range tables {
		pid := filepath.Base(filepath.Dir(table))
		if raw, err := os.ReadFile(table); err == nil && strings.Contains(string(raw), n.Data.Path()) {
			found["processes"] = append(found["processes"], pid)
		}
	}
	found["processes"] = append(found["processes"], localtest.ProcessesOf(n.T, n.Data.Path())...)
	return found
}
