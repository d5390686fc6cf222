package rollout

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/nodestest"
)

// register does what a healthy kubelet of a machine does, which is configured with its pool.
func register(ctx context.Context, name string) error {
	return appear(ctx, name, map[string]string{v1alpha1.LabelNodePool: "workers"})
}

// appear does what a healthy kubelet does.
func appear(ctx context.Context, name string, labels map[string]string) error {
	nodes := client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}},
		metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	node.Spec.Taints = nil // the API server adds not-ready, and kube-controller-manager would take it away
	if node, err = nodes.Update(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
	}}
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// report does what a kubelet does that was started again.
func report(ctx context.Context, name string) error {
	nodes := client.CoreV1().Nodes()
	node, err := nodes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for i := range node.Status.Conditions {
		node.Status.Conditions[i].LastHeartbeatTime = metav1.Now()
	}
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// bench is a cluster under test.
type bench struct {
	*testing.T
	ctx      context.Context
	machines *nodestest.Machines
	cluster  Cluster
	rollouts *Rollouts
	ns       string
	// ahead is how far the clock is ahead, and every how often tokens are read.
	ahead, every time.Duration
	// failing means that Converge may fail.
	failing bool
}

// newBench returns a cluster with one pool, without nodes and pods.
func newBench(t *testing.T, replicas, surge int32) *bench {
	t.Helper()
	b := &bench{
		T: t, ctx: t.Context(), rollouts: &Rollouts{}, every: tokensEvery,
		machines: &nodestest.Machines{Join: register, Report: report},
	}
	b.cluster = Cluster{
		Name: "c1", UID: "uid-of-c1", Pools: []v1alpha1.NodePool{pool("workers", replicas, surge)},
		Machines: b.machines, Refresher: b.machines,
		Client: func(context.Context) (kubernetes.Interface, error) { return client, nil },
	}
	must(t, client.CoreV1().Nodes().DeleteCollection(b.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	ns, err := client.CoreV1().Namespaces().Create(b.ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	must(t, err)
	b.ns = ns.Name
	t.Cleanup(b.deletePods)
	return b
}

// deletePods deletes the pods of this test, which no other is to find on its nodes.
func (b *bench) deletePods() {
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	must(b.T, client.CoreV1().Pods(b.ns).DeleteCollection(context.Background(), now, metav1.ListOptions{}))
}

// open is what a controller opens each round.
func (b *bench) open() *Rollout {
	r := b.rollouts.Open(b.cluster)
	r.now = func() time.Time { return time.Now().Add(b.ahead) }
	r.tokensEvery = b.every
	return r
}

// keysOf are the keys in a rotation to a version, or in a cluster that has only the first.
func keysOf(version int) nodes.Keys {
	return nodes.Keys{
		Next: version, KeyID: []string{"", "old", "new", "newer"}[version], Old: version - 1,
		ProvenAt: time.Now().Truncate(time.Second),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) observe(keyVersion int) nodes.State {
	b.Helper()
	st, err := b.open().Observe(b.ctx, keysOf(keyVersion))
	must(b.T, err)
	return st
}

// until converges again and again until the state is as wanted.
func (b *bench) until(what string, keyVersion int, is func(nodes.State) bool) nodes.State {
	b.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		err := b.open().Converge(b.ctx, keysOf(keyVersion))
		if err != nil && !b.failing {
			b.Fatalf("converging: %v", err)
		}
		st := b.observe(keyVersion)
		if is(st) {
			return st
		}
		select {
		case <-deadline:
			b.Fatalf("waiting for %s: state is %+v", what, st)
		case <-tick.C:
		}
	}
}

// all reports whether there are so many nodes, all ready, of a key version, and nothing is waited for.
func all(count, keyVersion int) func(nodes.State) bool {
	return func(st nodes.State) bool {
		for _, n := range st.Nodes {
			if !n.Ready || n.Deleting || n.KeyVersion != keyVersion {
				return false
			}
		}
		return len(st.Nodes) == count && st.Waiting == "" && st.Converged
	}
}

func waitingFor(parts ...string) func(nodes.State) bool {
	return func(st nodes.State) bool {
		for _, p := range parts {
			if !strings.Contains(st.Waiting, p) {
				return false
			}
		}
		return true
	}
}

// pod starts a pod on a node: bound, running and ready.
func (b *bench) pod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	b.Helper()
	zero := int64(0)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{Name: "c", Image: "localhost/none"}},
		},
	}
	if change != nil {
		change(p)
	}
	p, err := client.CoreV1().Pods(b.ns).Create(b.ctx, p, metav1.CreateOptions{})
	must(b.T, err)
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	p, err = client.CoreV1().Pods(b.ns).UpdateStatus(b.ctx, p, metav1.UpdateOptions{})
	must(b.T, err)
	return p
}

func (b *bench) podExists(name string) bool {
	b.Helper()
	_, err := client.CoreV1().Pods(b.ns).Get(b.ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
	return err == nil
}

// budget makes a PodDisruptionBudget over the pods of an app.
func (b *bench) budget(name, app string) *policyv1.PodDisruptionBudget {
	b.Helper()
	one := intstr.FromInt32(1)
	pdb, err := client.PolicyV1().PodDisruptionBudgets(b.ns).Create(b.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}, metav1.CreateOptions{})
	must(b.T, err)
	return pdb
}

// allow sets the status of a budget as kube-controller-manager does.
func (b *bench) allow(
	pdb *policyv1.PodDisruptionBudget, disruptions, healthy, expected int32,
) *policyv1.PodDisruptionBudget {
	b.Helper()
	pdb.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: pdb.Generation, DisruptionsAllowed: disruptions,
		DesiredHealthy: 1, CurrentHealthy: healthy, ExpectedPods: expected,
	}
	pdb, err := client.PolicyV1().PodDisruptionBudgets(b.ns).UpdateStatus(b.ctx, pdb, metav1.UpdateOptions{})
	must(b.T, err)
	return pdb
}
