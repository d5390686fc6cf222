package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/nodestest"
)

// TestConform runs the suite of the port on a Rollout over machines in memory and a real API server.
func TestConform(t *testing.T) {
	nodestest.RunAdapter(t, nodestest.AdapterFixture{New: func(t *testing.T) nodestest.Cluster {
		b := newBench(t, 0, 1)
		b.cleanNote()
		return nodestest.Cluster{
			Open: func(_ *testing.T, pools ...v1alpha1.NodePool) nodes.Adapter {
				c := b.cluster
				c.Pools = pools
				return (&Rollouts{}).Open(c)
			},
			Fail:   func(_ *testing.T, fault faults.Fault) { b.failNext(fault) },
			Vanish: func(_ *testing.T, node string) { b.machines.Vanish(node) },
			Join:   func(t *testing.T, node string) { must(t, appear(t.Context(), node, nil)) },
			Blind: func(*testing.T) func() {
				b.machines.Blind(true)
				return func() { b.machines.Blind(false) }
			},
		}
	}})
}

// failNext makes the next write of a machine fail.
func (b *bench) failNext(fault faults.Fault) {
	b.machines.Fail(func() faults.Fault {
		once := fault
		fault = faults.None
		return once
	})
}

// cleanNote removes what an earlier test noted in the cluster.
func (b *bench) cleanNote() {
	b.Helper()
	err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Delete(b.ctx, "keyturn-signing-key", metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
}

// TestMachinesWithoutRefresher wants nodes to stay whose tokens nobody can replace. They can be deleted nevertheless.
func TestMachinesWithoutRefresher(t *testing.T) {
	b := newBench(t, 1, 1)
	b.until("one node", 1, all(1, 1))
	b.cluster.Refresher, b.cluster.NodeRefresh = nil, v1alpha1.NodeRefreshInPlace
	_, observed := b.open().Observe(b.ctx, keysOf(1))
	converged := b.open().Converge(b.ctx, keysOf(2))
	for _, err := range []error{observed, converged} {
		if err == nil || !strings.Contains(err.Error(), "nodeRefresh InPlace") {
			t.Errorf("got %v", err)
		}
	}
	if gone, err := b.open().Delete(b.ctx); !gone || err != nil {
		t.Errorf("deleting: %t, %v", gone, err)
	}
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshReplace
	b.until("one node of version 2", 2, all(1, 2))
}

// TestMemoryIsOfOneCluster has two clusters of the same name, one after the other.
func TestMemoryIsOfOneCluster(t *testing.T) {
	b := newBench(t, 1, 1)
	b.machines.Join = nil
	must(t, b.open().Converge(b.ctx, keysOf(1)))
	b.observe(1)
	b.ahead = joinTimeout
	if st := b.observe(1); !st.Blocked {
		t.Errorf("not blocked: %+v", st)
	}
	was := b.cluster.UID
	b.cluster.UID = "another"
	if st := b.observe(1); st.Blocked {
		t.Errorf("a new cluster is as impatient as the one before: %+v", st)
	}
	b.cluster.UID = was
	if gone, err := b.open().Delete(b.ctx); !gone || err != nil {
		t.Errorf("deleting: %t, %v", gone, err)
	}
	if gone, err := b.open().Delete(b.ctx); !gone || err != nil || len(b.rollouts.of) != 1 ||
		b.rollouts.of["another"] == nil {
		t.Errorf("deleted, %d are remembered (%t, %v)", len(b.rollouts.of), gone, err)
	}
}

// TestUnmanagedNode rotates a cluster with a node that nobody made. Its pods are Keyturn's to name, not to end.
func TestUnmanagedNode(t *testing.T) {
	for _, how := range []v1alpha1.NodeRefresh{
		v1alpha1.NodeRefreshReplace, v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait,
	} {
		t.Run(string(how), func(t *testing.T) {
			b := newBench(t, 1, 1)
			b.cleanNote()
			b.cluster.NodeRefresh, b.every = how, 0
			must(t, appear(b.ctx, "stranger", nil))
			b.pod("old", "stranger", withToken)
			b.pod("tokenless", "stranger", nil)
			b.until("a node of theirs and one of ours", 1, func(st nodes.State) bool {
				return st.Converged && len(st.Nodes) == 2 && st.Oldest == 1 && st.Waiting == ""
			})
			// It is not taken for new before it is known since when API servers sign with the new key.
			if st := b.observe(2); st.Oldest != 1 {
				t.Errorf("before Refresh: %+v", st)
			}
			words := "pod " + b.ns + "/old on node stranger to be deleted, which may hold a token older than key version 2"
			st := b.until("its pod to be named", 2, waitingFor(words))
			if !st.Blocked || st.Oldest != 1 || strings.Contains(st.Waiting, "tokenless") || !b.podExists("old") {
				t.Errorf("while an older pod runs there: %+v", st)
			}
			must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "old", metav1.DeleteOptions{}))
			must(t, b.open().Converge(b.ctx, keysOf(2))) // what follows the note begins
			b.ahead = 3 * time.Minute                    // pods that were just starting are not any more
			st = b.until("our own nodes", 2, func(st nodes.State) bool { return st.Oldest == 2 && st.Converged })
			if st.Waiting != "" {
				t.Errorf("at the end: %+v", st)
			}
		})
	}
}

// TestUnmanagedNodeWhenKeysChange has a pod on a node that nobody made, which is new in one rotation and old in the
// next.
func TestUnmanagedNodeWhenKeysChange(t *testing.T) {
	b := newBench(t, 0, 1)
	b.cleanNote()
	b.every = 0
	must(t, appear(b.ctx, "stranger", nil))
	must(t, b.open().Converge(b.ctx, keysOf(2)))
	b.awaitLater()
	b.pod("younger", "stranger", withToken)
	if st := b.observe(2); st.Oldest != 2 || st.Waiting != "" {
		t.Errorf("a pod that was made since counts as old: %+v", st)
	}
	next := nodes.Keys{Next: 3, KeyID: "newest", Old: 2, ProvenAt: time.Now().Truncate(time.Second)}
	if st, err := b.open().Observe(b.ctx, next); err != nil || st.Oldest != 2 {
		t.Errorf("the next rotation begins: %+v, %v", st, err)
	}
	for range 2 {
		must(t, b.open().Converge(b.ctx, next))
	}
	st, err := b.open().Observe(b.ctx, next)
	if err != nil || st.Oldest != 2 || !st.Blocked ||
		!strings.Contains(st.Waiting, "/younger on node stranger to be deleted, ") {
		t.Errorf("a pod of the last rotation: %+v, %v", st, err)
	}
	// Once the old key is retired, no token of it matters.
	next.Old = 0
	if st, err := b.open().Observe(b.ctx, next); err != nil || st.Oldest != 3 || st.Waiting != "" {
		t.Errorf("the rotation is over: %+v, %v", st, err)
	}
}

func withToken(p *corev1.Pod) {
	p.Spec.ServiceAccountName = "default"
	useVault(p)
}

// awaitLater waits until the API server's clock is past the time that counts as the same as that of the note.
func (b *bench) awaitLater() {
	b.Helper()
	note, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(b.ctx, "keyturn-signing-key", metav1.GetOptions{})
	must(b.T, err)
	since, err := time.Parse(time.RFC3339, note.Data["since"])
	must(b.T, err)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		probe, err := client.CoreV1().ConfigMaps(b.ns).Create(b.ctx,
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: fmt.Sprintf("probe-%d-", i)}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		must(b.T, err)
		if probe.CreationTimestamp.After(since.Add(5 * time.Second)) {
			return
		}
		<-tick.C
	}
}

// TestOrphansGo removes the Node objects of machines that are gone, also of pools that are gone.
func TestOrphansGo(t *testing.T) {
	b := newBench(t, 0, 1)
	must(t, appear(b.ctx, "c1-gone-00000", map[string]string{v1alpha1.LabelNodePool: "gone"}))
	if st := b.observe(1); st.Converged || st.Oldest != 1 ||
		st.Waiting != "node c1-gone-00000 to be deleted, whose machine is gone" {
		t.Errorf("a Node object without a machine: %+v", st)
	}
	b.until("no node", 1, func(st nodes.State) bool { return st.Converged && len(st.Nodes) == 0 })
}
