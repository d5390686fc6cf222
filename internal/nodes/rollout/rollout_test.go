package rollout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/nodes"
)

// config and client reach the API server that all tests of this package share.
var (
	config *rest.Config
	client kubernetes.Interface
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	var (
		stop func() error
		err  error
	)
	config, stop, err = kubetest.Launch(kubetest.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = stop() }()
	client = kubernetes.NewForConfigOrDie(config)
	return m.Run()
}

func TestCreateReplaceScaleDelete(t *testing.T) {
	b := newBench(t, 2, 1)
	first := b.until("two nodes", 1, all(2, 1)).Nodes
	for _, n := range first {
		node, err := client.CoreV1().Nodes().Get(b.ctx, n.Name, metav1.GetOptions{})
		must(t, err)
		if !strings.HasPrefix(n.Name, "c1-workers-") || node.Labels[v1alpha1.LabelNodePool] != "workers" ||
			node.Labels[v1alpha1.LabelKeyVersion] != "1" {
			t.Errorf("node %s has labels %v", n.Name, node.Labels)
		}
	}
	second := b.until("two nodes of version 2", 2, all(2, 2)).Nodes
	for _, n := range first {
		if n.Name == second[0].Name || n.Name == second[1].Name {
			t.Errorf("node %s was not replaced", n.Name)
		}
	}
	if b.machines.Most() != 3 {
		t.Errorf("there were up to %d machines, want 3", b.machines.Most())
	}
	b.cluster.Pools = append(b.cluster.Pools, pool("more", 1, 1))
	b.cluster.Pools[0].Replicas = 1
	b.until("one node in each of two pools", 2, all(2, 2))
	b.cluster.Pools = b.cluster.Pools[:1]
	b.until("one node", 2, all(1, 2))

	gone, err := b.open().Delete(b.ctx)
	if left, _ := b.machines.List(b.ctx); !gone || err != nil || len(left) > 0 {
		t.Errorf("Delete = %v, %v with machines %v left", gone, err, left)
	}
}

func TestBudgetBlocksUntilItAllows(t *testing.T) {
	b := newBench(t, 1, 1)
	old := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.pod("web", old, nil)
	pdb := b.allow(b.budget("web-budget", "web"), 0, 1, 1)

	st := b.until("the budget to be named", 2,
		waitingFor("pod "+b.ns+"/web on node "+old, "PodDisruptionBudget "+b.ns+"/web-budget",
			"add a replica, or relax or delete"))
	if !st.Blocked {
		t.Errorf("not blocked: %q", st.Waiting)
	}
	for range 5 {
		must(t, b.open().Converge(b.ctx, keysOf(2)))
	}
	if st := b.observe(2); len(st.Nodes) != 2 || !b.podExists("web") {
		t.Fatalf("a budget was not honoured: %+v", st)
	}
	b.allow(pdb, 1, 2, 2)
	b.until("the replacement", 2, all(1, 2))
	if b.podExists("web") {
		t.Error("the pod was never evicted")
	}
}

// A budget that will allow a disruption once more pods are ready is waited for without a call for help, at first.
func TestBudgetThatHealsBlocksOnlyAfterAWhile(t *testing.T) {
	b := newBench(t, 1, 1)
	old := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.pod("web", old, nil)
	b.allow(b.budget("web-budget", "web"), 0, 1, 2)
	if st := b.until("the budget to be named", 2, waitingFor("more of its pods must become ready")); st.Blocked {
		t.Errorf("blocked at once: %q", st.Waiting)
	}
	b.ahead = 2 * time.Minute
	if st := b.observe(2); !st.Blocked || !strings.Contains(st.Waiting, "for 2m") {
		t.Errorf("not blocked after two minutes: %+v", st)
	}
}

// The API server answers for such a budget with Retry-After: 10, which client-go obeys up to ten times.
func TestConvergeReturnsSoonWhenABudgetIsUnprocessed(t *testing.T) {
	b := newBench(t, 1, 1)
	old := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.pod("web", old, nil)
	b.budget("web-budget", "web")
	var evictions atomic.Int64
	b.cluster.Client = func(context.Context) (kubernetes.Interface, error) {
		return kubernetes.NewForConfig(kubetest.Inject(config, func(r *http.Request) kubetest.Fault {
			if strings.HasSuffix(r.URL.Path, "/eviction") {
				evictions.Add(1)
			}
			return kubetest.None
		}))
	}
	b.until("the budget to be named", 2, func(st nodes.State) bool {
		if n := evictions.Swap(0); n > 1 {
			t.Errorf("Converge asked %d times for the eviction of one pod: Retry-After was obeyed", n)
		}
		return waitingFor(b.ns + "/web-budget has not been processed")(st)
	})
}

func TestSeveralBudgetsBlock(t *testing.T) {
	b := newBench(t, 1, 1)
	old := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.pod("web", old, nil)
	b.allow(b.budget("one", "web"), 1, 2, 2)
	b.allow(b.budget("two", "web"), 1, 2, 2)
	st := b.until("both budgets to be named", 2, waitingFor(b.ns+"/one", b.ns+"/two", "keep one of them"))
	if !st.Blocked {
		t.Errorf("not blocked: %q", st.Waiting)
	}
}

func TestDrainFilters(t *testing.T) {
	b := newBench(t, 1, 1)
	old := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	selector := map[string]string{"app": "agent"}
	ds, err := client.AppsV1().DaemonSets(b.ns).Create(b.ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: selector},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "localhost/none"}}},
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	b.pod("agent", old, func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet")),
		}
	})
	b.pod("bare", old, nil)
	b.pod("scratch", old, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}
	})
	b.until("the replacement", 2, all(1, 2))
	if b.podExists("bare") || b.podExists("scratch") {
		t.Error("a bare pod or one with an emptyDir was not evicted")
	}
	if !b.podExists("agent") {
		t.Error("a pod of a DaemonSet was evicted")
	}
}

func TestStuckPodIsNamed(t *testing.T) {
	b := newBench(t, 1, 1)
	old := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.pod("slow", old, func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
	st := b.until("the pod to end", 2, waitingFor("node "+old+" to be drained (1 pods are still to end)"))
	if st.Blocked {
		t.Errorf("blocked at once: %q", st.Waiting)
	}
	b.ahead = 3 * time.Minute
	st = b.observe(2)
	if !st.Blocked ||
		!waitingFor("pod "+b.ns+"/slow on node "+old+" to end, which has been terminating for 3m", "example.com/hold")(st) {
		t.Errorf("stuck pod is not named: %+v", st)
	}
	b.ahead = 0
	_, err := client.CoreV1().Pods(b.ns).Patch(b.ctx, "slow", types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	must(t, err)
	b.until("the replacement", 2, all(1, 2))
}

func TestDeadMachines(t *testing.T) {
	b := newBench(t, 2, 1)
	first := b.until("two nodes", 1, all(2, 1)).Nodes
	b.machines.Stop(first[0].Name)
	if st := b.observe(2); !waitingFor("machine " + first[0].Name + " to run")(st) {
		t.Errorf("a dead machine is not named: %+v", st)
	}
	b.until("the same two nodes", 1,
		func(st nodes.State) bool { return all(2, 1)(st) && st.Nodes[0].Name == first[0].Name })

	// A machine that vanished leaves a Node object with a pod that no budget lets go.
	b.pod("web", first[1].Name, nil)
	b.allow(b.budget("web-budget", "web"), 0, 1, 1)
	b.machines.Vanish(first[1].Name)
	b.until("another second node", 1, all(2, 1))
	if _, err := client.CoreV1().Nodes().Get(b.ctx, first[1].Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Node object of a machine that vanished is there: %v", err)
	}
	// So does an old machine that is dead when it is replaced.
	b.pod("web2", first[0].Name, nil)
	b.allow(b.budget("web2-budget", "web2"), 0, 1, 1)
	b.machines.Stop(first[0].Name)
	b.until("the replacement", 2, all(2, 2))
}

func TestMachineThatNeverJoinsIsReplaced(t *testing.T) {
	b := newBench(t, 1, 1)
	b.machines.Join = nil
	must(t, b.open().Converge(b.ctx, keysOf(1)))
	st := b.observe(2)
	if len(st.Nodes) != 1 || !waitingFor("machine "+st.Nodes[0].Name+" to join the cluster")(st) {
		t.Fatalf("a machine that does not join is not named: %+v", st)
	}
	b.ahead = joinTimeout/2 - time.Minute
	if st := b.observe(2); st.Blocked {
		t.Errorf("blocked too early: %+v", st)
	}
	b.ahead += 2 * time.Minute
	if st := b.observe(2); !st.Blocked {
		t.Errorf("not blocked: %+v", st)
	}
	b.ahead = joinTimeout + time.Minute
	b.machines.Join = register
	lost := st.Nodes[0].Name
	b.until("another machine", 1, func(st nodes.State) bool { return all(1, 1)(st) && st.Nodes[0].Name != lost })
}

// TestMachinesThatFail makes calls fail, some of which did their work.
func TestMachinesThatFail(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	b := newBench(t, 2, 1)
	b.failing = true
	b.machines.Fail(func() faults.Fault { return faults.Fault(rnd.IntN(3)) })
	b.until("two nodes", 1, all(2, 1))
	b.until("two nodes of version 2", 2, all(2, 2))
	if b.machines.Most() > 3 {
		t.Errorf("there were up to %d machines, want at most 3", b.machines.Most())
	}
}
