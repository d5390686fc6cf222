package nodes

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// fakeMachines keeps machines in memory; each is a Node object of the real API server as soon as it runs.
type fakeMachines struct {
	mu       sync.Mutex
	machines map[string]Machine
	// most is how many machines there have ever been at once.
	most int
	// mute keeps machines from registering Node objects.
	mute bool
	// tokens are what files hold; restarts counts those of kubelets, by machine.
	tokens   map[TokenFile]Token
	restarts map[string]int
	// fail decides, if set, whether a call fails, before it does what it does or after.
	fail func() (before, after error)
}

func (f *fakeMachines) List(context.Context) ([]Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Machine
	for _, m := range f.machines {
		out = append(out, m)
	}
	return out, nil
}

func (f *fakeMachines) Ensure(ctx context.Context, m Machine, _ v1alpha1.NodePool) error {
	before, after := f.fault()
	if before != nil {
		return before
	}
	f.mu.Lock()
	m.Running = true
	f.machines[m.Name] = m
	f.most = max(f.most, len(f.machines))
	mute := f.mute
	f.mu.Unlock()
	if mute {
		return after
	}
	return errors.Join(register(ctx, m.Name), after)
}

func (f *fakeMachines) Remove(_ context.Context, name string) (bool, error) {
	before, after := f.fault()
	if before != nil {
		return false, before
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, name)
	return true, after
}

func (f *fakeMachines) Remember(_ context.Context, m Machine) error {
	before, after := f.fault()
	if before != nil {
		return before
	}
	f.change(m.Name, func(own *Machine) {
		if own.Refresh.KeyVersion == m.Refresh.KeyVersion {
			m.Refresh.Since, m.Refresh.Kubelet = own.Refresh.Since, own.Refresh.Kubelet
		}
		own.KeyVersion, own.Refresh = m.KeyVersion, m.Refresh
	})
	return after
}

// RestartKubelet has the kubelet report at once.
func (f *fakeMachines) RestartKubelet(ctx context.Context, name string) error {
	before, after := f.fault()
	if before != nil {
		return before
	}
	f.mu.Lock()
	m := f.machines[name]
	if m.Refresh.Kubelet.IsZero() {
		f.restarts[name]++
		m.Refresh.Kubelet = time.Now()
		f.machines[name] = m
	}
	f.mu.Unlock()
	return errors.Join(report(ctx, name), after)
}

func (f *fakeMachines) Tokens(_ context.Context, _ string, files []TokenFile) ([]Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Token
	for _, file := range files {
		t, ok := f.tokens[file]
		t.Missing = !ok
		out = append(out, t)
	}
	return out, nil
}

func (f *fakeMachines) fault() (before, after error) {
	if f.fail == nil {
		return nil, nil
	}
	return f.fail()
}

// change changes a machine, or with nil forgets it.
func (f *fakeMachines) change(name string, do func(*Machine)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if do == nil {
		delete(f.machines, name)
		return
	}
	m := f.machines[name]
	do(&m)
	f.machines[name] = m
}

// register does what a healthy kubelet does.
func register(ctx context.Context, name string) error {
	nodes := client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
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
	rollout  *Rollout
	machines *fakeMachines
	uc       *v1alpha1.UserCluster
	ns       string
	ahead    time.Duration
}

// newBench returns a cluster with one pool, without nodes and pods.
func newBench(t *testing.T, replicas, surge int32) *bench {
	t.Helper()
	b := &bench{T: t, ctx: t.Context(), machines: &fakeMachines{
		machines: map[string]Machine{}, tokens: map[TokenFile]Token{}, restarts: map[string]int{},
	}}
	b.uc = &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "keyturn-system", Name: "c1"}}
	b.uc.Spec.NodePools = []v1alpha1.NodePool{pool("workers", replicas, surge)}
	b.rollout = NewRollout(
		func(*v1alpha1.UserCluster) (Machines, error) { return b.machines, nil },
		func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error) { return client, nil },
	)
	b.rollout.now = func() time.Time { return time.Now().Add(b.ahead) }
	must(t, client.CoreV1().Nodes().DeleteCollection(b.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	ns, err := client.CoreV1().Namespaces().Create(b.ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	must(t, err)
	b.ns = ns.Name
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) observe() State {
	b.Helper()
	st, err := b.rollout.Observe(b.ctx, b.uc)
	must(b.T, err)
	return st
}

// until converges again and again until the state is as wanted.
func (b *bench) until(what string, keyVersion int, is func(State) bool) State {
	b.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		err := b.rollout.Converge(b.ctx, b.uc, keyVersion)
		if err != nil && b.machines.fail == nil {
			b.Fatalf("converging: %v", err)
		}
		st := b.observe()
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

// all says that there are so many nodes, all ready, of a key version, and nothing is waited for.
func all(nodes, keyVersion int) func(State) bool {
	return func(st State) bool {
		for _, n := range st.Nodes {
			if !n.Ready || n.Deleting || n.KeyVersion != keyVersion {
				return false
			}
		}
		return len(st.Nodes) == nodes && st.Waiting == ""
	}
}

func waitingFor(parts ...string) func(State) bool {
	return func(st State) bool {
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
func (b *bench) allow(pdb *policyv1.PodDisruptionBudget, disruptions, healthy, expected int32) *policyv1.PodDisruptionBudget {
	b.Helper()
	pdb.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: pdb.Generation, DisruptionsAllowed: disruptions,
		DesiredHealthy: 1, CurrentHealthy: healthy, ExpectedPods: expected,
	}
	pdb, err := client.PolicyV1().PodDisruptionBudgets(b.ns).UpdateStatus(b.ctx, pdb, metav1.UpdateOptions{})
	must(b.T, err)
	return pdb
}
