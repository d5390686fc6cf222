package nodestest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/nodes"
)

// AdapterFixture gives RunAdapter access to an adapter.
type AdapterFixture struct {
	// New makes a cluster without nodes for one test. Tests run one after another.
	New func(t *testing.T) Cluster
	// Patience is how long a cluster may take to reach the desired state; zero means half a minute.
	Patience time.Duration
}

// Cluster is a cluster without nodes, and what the suite may do to it. Every hook except Open may be nil.
type Cluster struct {
	// Open makes another adapter, for a cluster whose spec has these pools and replaces nodes in a rotation. They share
	// only the cluster.
	Open func(t *testing.T, pools ...v1alpha1.NodePool) nodes.Adapter
	// Fail makes the next write fail.
	Fail func(t *testing.T, fault faults.Fault)
	// Vanish removes the machine of a node without the adapters' knowledge, and leaves its Node object.
	Vanish func(t *testing.T, node string)
	// Join makes a healthy node that does not belong to the adapters.
	Join func(t *testing.T, node string)
	// Blind makes the nodes unobservable until restore is called.
	Blind func(t *testing.T) (restore func())
}

// The keys of the suite, in the order of a rotation.
var (
	first    = nodes.Keys{Next: 1, KeyID: "kid-of-1"}
	rotating = nodes.Keys{Next: 2, KeyID: "kid-of-2", Old: 1, ProvenAt: time.Now().Truncate(time.Second)}
	second   = nodes.Keys{Next: 2, KeyID: "kid-of-2"}
)

// RunAdapter runs the suite of nodes.Adapter.
func RunAdapter(t *testing.T, f AdapterFixture) {
	tests := []struct {
		name string
		test func(*testing.T, cluster)
	}{
		{"Absent", testNoNodes},
		{"Create", testCreate},
		{"ConvergedStays", testConvergedStays},
		{"Replace", testReplace},
		{"StaleKeyVersion", testStaleKeyVersion},
		{"Resize", testResize},
		{"Failed", func(t *testing.T, c cluster) { testFailedWrites(t, c, faults.Failed) }},
		{"FailedButPersisted", func(t *testing.T, c cluster) { testFailedWrites(t, c, faults.FailedButPersisted) }},
		{"Vanished", testVanished},
		{"Newcomer", testNewcomer},
		{"Unknown", testUnseen},
		{"Delete", testDelete},
		{"Cancelled", testCancelled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, cluster{f.New(t), f.Patience}) })
	}
}

// cluster is the cluster of one test.
type cluster struct {
	Cluster
	patience time.Duration
}

func pool(replicas int32) v1alpha1.NodePool {
	return v1alpha1.NodePool{Name: "workers", Replicas: replicas, MaxSurge: 1}
}

// converge converges and observes until the pools are as desired, and returns the nodes by name. A call may fail, as
// for a controller.
func (c cluster) converge(t *testing.T, a nodes.Adapter, keys nodes.Keys, each ...func(nodes.State)) nodes.State {
	t.Helper()
	var st nodes.State
	eventually(t, fmt.Sprintf("nodes of key version %d", keys.Next), c.patience, func() error {
		failed := a.Converge(t.Context(), keys)
		st = c.observe(t, a, keys)
		for _, f := range each {
			f(st)
		}
		current := len(st.Nodes) == 0 || st.Oldest >= keys.Next
		return errorf(st.Converged && current, "%v; state is %+v", failed, st)
	})
	return st
}

// observe checks what must be true of any State.
func (c cluster) observe(t *testing.T, a nodes.Adapter, keys nodes.Keys) nodes.State {
	t.Helper()
	st, err := a.Observe(t.Context(), keys)
	must(t, "observing", err)
	slices.SortFunc(st.Nodes, func(a, b nodes.Node) int { return cmp.Compare(a.Name, b.Name) })
	if want := nodes.Oldest(st.Nodes); st.Oldest != want {
		t.Errorf("the oldest key version is %d, want %d: %+v", st.Oldest, want, st)
	}
	if st.Blocked && st.Waiting == "" {
		t.Errorf("blocked without a reason: %+v", st)
	}
	return st
}

func testNoNodes(t *testing.T, c cluster) {
	for _, a := range []nodes.Adapter{c.Open(t), c.Open(t, pool(0))} {
		st := c.observe(t, a, first)
		if len(st.Nodes) > 0 || !st.Converged || st.Oldest != 0 || st.Waiting != "" {
			t.Errorf("no nodes wanted, none there: %+v", st)
		}
		must(t, "converging", a.Converge(t.Context(), first))
		if st := c.observe(t, a, first); len(st.Nodes) > 0 || !st.Converged {
			t.Errorf("converged to no nodes: %+v", st)
		}
	}
	if st := c.observe(t, c.Open(t, pool(1)), first); len(st.Nodes) > 0 || st.Converged || st.Waiting == "" {
		t.Errorf("a node wanted, none there: %+v", st)
	}
}

func testCreate(t *testing.T, c cluster) {
	a := c.Open(t, pool(2), v1alpha1.NodePool{Name: "none", MaxSurge: 1})
	st := c.converge(t, a, first)
	if len(st.Nodes) != 2 || st.Oldest != 1 || st.Waiting != "" || st.Blocked {
		t.Errorf("two nodes wanted: %+v", st)
	}
	for _, n := range st.Nodes {
		if n.Pool != "workers" || n.KeyVersion != 1 || !n.Ready || n.Deleting {
			t.Errorf("node %+v", n)
		}
	}
	// Another adapter sees the same.
	other := c.observe(t, c.Open(t, pool(2)), first)
	if !slices.Equal(other.Nodes, st.Nodes) || !other.Converged {
		t.Errorf("one sees %+v, another %+v", st, other)
	}
}

// testConvergedStays converges a converged cluster: nothing may happen.
func testConvergedStays(t *testing.T, c cluster) {
	before := c.converge(t, c.Open(t, pool(2)), first)
	for range 3 {
		a := c.Open(t, pool(2))
		must(t, "converging again", a.Converge(t.Context(), first))
		if after := c.observe(t, a, first); !slices.Equal(after.Nodes, before.Nodes) || !after.Converged {
			t.Fatalf("it was %+v, is %+v", before, after)
		}
	}
}

// testReplace rotates. There must never be more nodes than replicas and surge, nor older ones than before.
func testReplace(t *testing.T, c cluster) {
	a := c.Open(t, pool(2))
	before := c.converge(t, a, first)
	oldest := 1
	after := c.converge(t, a, rotating, func(st nodes.State) {
		if len(st.Nodes) > 3 {
			t.Errorf("%d nodes, of at most 3: %+v", len(st.Nodes), st)
		}
		if st.Oldest < oldest {
			t.Errorf("the oldest key version was %d, is %d: %+v", oldest, st.Oldest, st)
		}
		oldest = st.Oldest
	})
	for _, n := range after.Nodes {
		if n.KeyVersion != 2 || slices.ContainsFunc(before.Nodes, func(b nodes.Node) bool { return b.Name == n.Name }) {
			t.Errorf("node %+v, of %+v before", n, before.Nodes)
		}
	}
	if len(after.Nodes) != 2 {
		t.Errorf("two nodes wanted: %+v", after)
	}
	if st := c.observe(t, a, second); !st.Converged || st.Oldest != 2 {
		t.Errorf("the rotation is over: %+v", st)
	}
}

// testStaleKeyVersion lets a late controller converge to the previous version.
func testStaleKeyVersion(t *testing.T, c cluster) {
	before := c.converge(t, c.Open(t, pool(2)), second)
	for range 3 {
		a := c.Open(t, pool(2))
		must(t, "converging to an older version", a.Converge(t.Context(), first))
		if after := c.observe(t, a, second); !slices.Equal(after.Nodes, before.Nodes) || after.Oldest != 2 {
			t.Fatalf("it was %+v, is %+v", before, after)
		}
	}
}

func testResize(t *testing.T, c cluster) {
	before := c.converge(t, c.Open(t, pool(1)), first)
	grown := c.converge(t, c.Open(t, pool(3)), first)
	if len(grown.Nodes) != 3 || !slices.Contains(grown.Nodes, before.Nodes[0]) {
		t.Errorf("three nodes wanted, of which one was %+v: %+v", before.Nodes, grown)
	}
	if st := c.observe(t, c.Open(t), first); st.Converged {
		t.Errorf("nodes of a pool that was removed are as wanted: %+v", st)
	}
	if st := c.converge(t, c.Open(t, pool(0)), first); len(st.Nodes) != 0 {
		t.Errorf("no node wanted: %+v", st)
	}
}

// testFailedWrites makes every other write fail. A write that happened must not happen twice.
func testFailedWrites(t *testing.T, c cluster, fault faults.Fault) {
	if c.Fail == nil {
		t.Skip("nobody can make a write fail")
	}
	a := c.Open(t, pool(2))
	passes := 0
	fail := func(st nodes.State) {
		if len(st.Nodes) > 3 {
			t.Errorf("%d nodes, of at most 3: %+v", len(st.Nodes), st)
		}
		if passes++; passes%2 == 0 {
			c.Fail(t, fault)
		}
	}
	c.Fail(t, fault)
	c.converge(t, a, first, fail)
	c.Fail(t, fault)
	if st := c.converge(t, a, rotating, fail); len(st.Nodes) != 2 {
		t.Errorf("two nodes wanted: %+v", st)
	}
	c.Fail(t, faults.None)
}

// testVanished removes the machine of a node: another one must replace it, and nothing of the first be left.
func testVanished(t *testing.T, c cluster) {
	if c.Vanish == nil {
		t.Skip("nobody can take a machine away")
	}
	a := c.Open(t, pool(2))
	lost := c.converge(t, a, first).Nodes[0].Name
	c.Vanish(t, lost)
	if st := c.observe(t, a, first); st.Converged {
		t.Errorf("a machine has vanished, and all is as wanted: %+v", st)
	}
	after := c.converge(t, a, first)
	if len(after.Nodes) != 2 || slices.ContainsFunc(after.Nodes, func(n nodes.Node) bool { return n.Name == lost }) {
		t.Errorf("without %s: %+v", lost, after)
	}
}

// testNewcomer makes an unmanaged node appear. It must neither count nor be removed.
func testNewcomer(t *testing.T, c cluster) {
	if c.Join == nil {
		t.Skip("nobody can make a node")
	}
	const stranger = "stranger"
	c.Join(t, stranger)
	theirs := func(n nodes.Node) bool { return n.Name == stranger }
	alone := c.observe(t, c.Open(t), first)
	if i := slices.IndexFunc(alone.Nodes, theirs); !alone.Converged || i < 0 || alone.Nodes[i].Pool != "" ||
		alone.Oldest != 1 {
		t.Errorf("no node wanted, one joined: %+v", alone)
	}
	a := c.Open(t, pool(1))
	for _, keys := range []nodes.Keys{first, rotating} {
		if st := c.converge(t, a, keys); len(st.Nodes) != 2 || !slices.ContainsFunc(st.Nodes, theirs) {
			t.Errorf("one node wanted, one joined: %+v", st)
		}
	}
	if st := c.observe(t, a, second); st.Oldest != 2 || !st.Converged {
		t.Errorf("the rotation is over: %+v", st)
	}
	c.deleted(t, a)
	if st := c.observe(t, c.Open(t), second); !slices.ContainsFunc(st.Nodes, theirs) {
		t.Errorf("deleting what was made took %s along: %+v", stranger, st)
	}
}

// testUnseen makes the nodes unobservable: they must not seem absent.
func testUnseen(t *testing.T, c cluster) {
	if c.Blind == nil {
		t.Skip("nobody can hide the nodes")
	}
	a := c.Open(t, pool(2))
	before := c.converge(t, a, first)
	restore := c.Blind(t)
	st, observed := a.Observe(t.Context(), first)
	converged := a.Converge(t.Context(), first)
	gone, deleted := a.Delete(t.Context())
	restore()
	if observed == nil || converged == nil || deleted == nil || gone {
		t.Errorf("nodes that cannot be seen: %+v, %v; %v; %t, %v", st, observed, converged, gone, deleted)
	}
	if after := c.observe(t, a, first); !slices.Equal(after.Nodes, before.Nodes) {
		t.Errorf("it was %+v, is %+v", before, after)
	}
}

// deleted deletes until nothing is left.
func (c cluster) deleted(t *testing.T, a nodes.Adapter) {
	t.Helper()
	eventually(t, "all nodes to be gone", c.patience, func() error {
		gone, err := a.Delete(t.Context())
		if err != nil {
			return err
		}
		return errorf(gone, "they are not gone")
	})
}

func testDelete(t *testing.T, c cluster) {
	a := c.Open(t, pool(2))
	c.deleted(t, a) // nothing is there yet
	c.converge(t, a, first)
	for range 2 { // the second time it is gone already
		c.deleted(t, a)
	}
	// Remaining Node objects are deleted with the cluster, or by the next Converge.
	if st := c.converge(t, c.Open(t), first); len(st.Nodes) != 0 {
		t.Errorf("deleted: %+v", st)
	}
}

func testCancelled(t *testing.T, c cluster) {
	a := c.Open(t, pool(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, observed := a.Observe(ctx, first)
	if err := a.Converge(ctx, first); err == nil || observed == nil {
		t.Errorf("after the end of its context: converged %v, observed %v", err, observed)
	}
	if st := c.observe(t, a, first); len(st.Nodes) != 0 {
		t.Errorf("it converged nevertheless: %+v", st)
	}
}
