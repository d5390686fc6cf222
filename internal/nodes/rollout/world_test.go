package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/pools"
	"github.com/keyturn/keyturn/internal/nodes/tokens"
)

// world is a deliberately plain model of machines, Node objects and pods, on which plans are carried out.
type world struct {
	pools    []v1alpha1.NodePool
	want     int
	policy   tokens.Policy // want is its KeyVersion
	now      time.Time
	nodes    map[string]*inhabitant
	born     int
	violated []string
}

type inhabitant struct {
	pools.View
	Refresh  nodes.Refresh
	Heard    bool
	starting bool // it was started, and will run
	removing bool // it was removed, and will be gone
	quiet    bool // its kubelet lost its Node object, and makes no new one before it is started again
	ending   int  // pods that were evicted, and will end
	pods     int
	down     bool // its kubelet was ended, and will start again
	stale    int  // token files that will get a new token
	replaced time.Time
}

func newWorld(want int, pools ...v1alpha1.NodePool) *world {
	return &world{
		pools: pools, want: want, policy: tokens.Policy{How: v1alpha1.NodeRefreshReplace},
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), nodes: map[string]*inhabitant{},
	}
}

// keeping has the nodes stay that are of an older key version.
func (w *world) keeping(how v1alpha1.NodeRefresh, reload time.Duration) *world {
	w.policy.How, w.policy.Reload = how, reload
	return w
}

// refreshing reports whether its tokens are being replaced.
func (n *inhabitant) refreshing() bool { return n.Refresh.KeyVersion > n.KeyVersion }

// action is one of either half.
type action struct{ step, pool, node, text string }

type chain []action

// decide plans both halves, as Rollout.Converge does.
func (w *world) decide() []chain {
	oldest := w.want
	if w.policy.How.KeepsNodes() {
		oldest = 0
	}
	machines := pools.Plan(w.pools, w.views(), oldest)
	var out []chain
	for _, c := range machines {
		var next chain
		for _, a := range c {
			next = append(next, action{string(a.Step), a.Pool, a.Node, a.String()})
		}
		out = append(out, next)
	}
	p := w.policy
	p.KeyVersion = w.want
	for _, c := range tokens.Plan(w.staying(pools.Going(machines)), p, w.now) {
		var next chain
		for _, a := range c {
			next = append(next, action{string(a.Step), "", a.Node, a.String()})
		}
		out = append(out, next)
	}
	return out
}

func pool(name string, replicas, maxSurge int32) v1alpha1.NodePool {
	return v1alpha1.NodePool{Name: name, Replicas: replicas, MaxSurge: maxSurge}
}

// settle adds healthy nodes of a key version.
func (w *world) settle(pool string, version, nodes int) *world {
	for range nodes {
		n := w.add(pool, version)
		n.Running, n.Registered, n.Ready, n.Labelled, n.pods, n.stale = true, true, true, true, 2, 2
	}
	return w
}

func (w *world) add(pool string, version int) *inhabitant {
	w.born++
	n := &inhabitant{
		View: pools.View{Name: fmt.Sprintf("%s-%02d", pool, w.born), Pool: pool, KeyVersion: version, Machine: true},
	}
	w.nodes[n.Name] = n
	return n
}

func (w *world) names() []string { return slices.Sorted(maps.Keys(w.nodes)) }

func (w *world) views() []pools.View {
	var out []pools.View
	for _, name := range w.names() {
		v := w.nodes[name].View
		v.Ready = v.Ready && v.Running
		if v.Leaving && v.Cordoned && v.Running {
			v.Pods = w.nodes[name].pods + w.nodes[name].ending
		}
		out = append(out, v)
	}
	return out
}

// staying are the machines that an earlier plan did not choose to go.
func (w *world) staying(going map[string]bool) []tokens.View {
	var out []tokens.View
	for _, name := range w.names() {
		n := w.nodes[name]
		if !n.Machine || n.Leaving {
			continue
		}
		v := tokens.View{
			Machine: nodes.Machine{
				Name: name, Pool: n.Pool, KeyVersion: n.KeyVersion, Running: n.Running, Refresh: n.Refresh,
			},
			Registered: n.Registered, Ready: n.Ready && n.Running, Heard: n.Heard, Going: going[name],
		}
		if v.Refreshing() && v.Running {
			v.Held = tokens.Held{Known: true, Old: make([]string, n.stale), Renewed: !n.replaced.IsZero()}
		}
		out = append(out, v)
	}
	return out
}

// apply carries out one action, and notes what must never be planned.
func (w *world) apply(a action) {
	if a.step == string(pools.Create) {
		w.checkRoom(a.pool)
		w.add(a.pool, w.want).starting = true
		return
	}
	n := w.nodes[a.node]
	if n == nil {
		return // it is gone since it was observed, which an executor finds out as well
	}
	switch a.step {
	case string(pools.Start):
		n.starting = !n.Running
	case string(pools.Label):
		n.Labelled = true
	case string(tokens.Begin):
		n.Refresh = nodes.Refresh{KeyVersion: w.want, Since: w.now}
		n.Heard = false
	case string(tokens.RestartKubelet):
		if n.Refresh.Kubelet.IsZero() && !n.down {
			w.checkOnly(n)
			n.down = true
		}
	case string(tokens.Prove):
		n.Refresh.Proven = w.now
	case string(tokens.Refreshed):
		w.checkRefreshed(n)
		n.KeyVersion = w.want
	case string(pools.Cordon):
		n.Leaving, n.Cordoned = n.Registered, n.Registered
	case string(pools.Evict):
		n.ending, n.pods = n.ending+n.pods, 0
	case string(pools.DeleteNode):
		w.checkEmpty(n)
		w.unregister(n)
	case string(pools.Remove):
		if n.Registered && n.Running && n.pods+n.ending > 0 {
			w.violate("machine of %s removed with %d pods on it", n.Name, n.pods+n.ending)
		}
		n.removing, n.starting, n.Running = true, false, false
	}
}

// checkOnly finds that no other kubelet is still busy with having been restarted.
func (w *world) checkOnly(n *inhabitant) {
	if w.policy.How != v1alpha1.NodeRefreshInPlace {
		w.violate("the kubelet of %s is restarted", n.Name)
	}
	for _, other := range w.nodes {
		if other != n && other.Machine && !other.Leaving && other.refreshing() && (other.down ||
			!other.Refresh.Kubelet.IsZero() && other.stale > 0) {
			w.violate("the kubelet of %s is restarted before %s is through", n.Name, other.Name)
		}
	}
}

func (w *world) checkRefreshed(n *inhabitant) {
	if n.stale > 0 || w.now.Sub(n.replaced) < w.policy.Reload {
		w.violate("%s is refreshed with %d old tokens, and new ones for %s", n.Name, n.stale, w.now.Sub(n.replaced))
	}
}

func (w *world) checkRoom(pool string) {
	limit := 0
	for _, p := range w.pools {
		if p.Name == pool {
			limit = int(p.Replicas + p.MaxSurge)
		}
	}
	if w.machines(pool) >= limit {
		w.violate("created a machine of %s beyond %d", pool, limit)
	}
}

func (w *world) checkEmpty(n *inhabitant) {
	if n.Machine && n.Running && n.pods+n.ending > 0 {
		w.violate("Node object of %s deleted with %d pods on it", n.Name, n.pods+n.ending)
	}
}

func (w *world) violate(format string, args ...any) {
	w.violated = append(w.violated, fmt.Sprintf(format, args...))
}

func (w *world) unregister(n *inhabitant) {
	n.Registered, n.Ready, n.Leaving, n.Cordoned, n.Labelled = false, false, false, false, false
	n.quiet = n.Running
	w.bury(n)
}

// bury forgets what has neither machine nor Node object.
func (w *world) bury(n *inhabitant) {
	if !n.Machine && !n.Registered {
		delete(w.nodes, n.Name)
	}
}

func (w *world) machines(pool string) int {
	return w.count(pool, func(n *inhabitant) bool { return n.Machine })
}

// serving counts the nodes that pods can be moved to.
func (w *world) serving(pool string) int {
	return w.count(pool, func(n *inhabitant) bool { return n.Ready && n.Running && !n.Cordoned })
}

func (w *world) count(pool string, is func(*inhabitant) bool) int {
	total := 0
	for _, n := range w.nodes {
		if n.Pool == pool && is(n) {
			total++
		}
	}
	return total
}

// events are what can happen next, in the order of the names.
func (w *world) events() []func() {
	var out []func()
	for _, name := range w.names() {
		n := w.nodes[name]
		if n.Machine && n.Running && n.refreshing() && !n.Leaving && !n.down {
			// Time passes, which everything may be waiting for.
			out = append(out, func() { w.now = w.now.Add(time.Minute) })
		}
		switch {
		case n.down:
			out = append(out, func() { n.down, n.Refresh.Kubelet, n.Heard = false, w.now, false })
		case n.Running && n.Registered && n.Ready && n.refreshing() && !n.Heard && !n.Refresh.Kubelet.IsZero():
			out = append(out, func() { n.Heard = true })
		case n.Running && n.refreshing() && n.stale > 0 && (w.policy.How == v1alpha1.NodeRefreshWait ||
			!n.Refresh.Kubelet.IsZero()):
			out = append(out, func() { n.stale--; n.replaced = w.now })
		case n.removing:
			out = append(out, func() { n.Machine, n.removing, n.starting = false, false, false; w.bury(n) })
		case n.starting:
			out = append(out, func() { n.starting, n.Running, n.quiet, n.Lost = false, true, false, false })
		case n.Running && !n.Registered && n.quiet && !n.Lost:
			out = append(out, func() { n.Lost = true })
		case n.Running && !n.Registered && !n.Lost:
			out = append(out, func() { n.Registered = true })
		case n.Running && n.Registered && !n.Ready:
			out = append(out, func() { n.Ready = true })
		case n.ending > 0:
			out = append(out, func() { n.ending-- })
		}
	}
	return out
}

// unfinished is what still differs from the pools; empty in the end.
func (w *world) unfinished() string {
	var out []string
	wanted := map[string]int{}
	for _, p := range w.pools {
		wanted[p.Name] = int(p.Replicas)
	}
	got := map[string]int{}
	for _, name := range w.names() {
		n := w.nodes[name]
		got[n.Pool]++
		if !n.Ready || !n.Running || !n.Labelled || n.Cordoned || n.KeyVersion < w.want {
			out = append(out, n.String())
		}
	}
	for p := range maps.Keys(merge(wanted, got)) {
		if got[p] != wanted[p] {
			out = append(out, fmt.Sprintf("pool %s has %d of %d", p, got[p], wanted[p]))
		}
	}
	return strings.Join(out, "; ")
}

func merge(a, b map[string]int) map[string]int {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// String is a line of a golden file.
func (n *inhabitant) String() string {
	words := []string{fmt.Sprintf("%s v%d", n.Name, n.KeyVersion)}
	for _, s := range []struct {
		is   bool
		word string
	}{
		{!n.Machine, "no-machine"}, {n.Machine && !n.Running && !n.removing, "stopped"}, {n.removing, "removing"},
		{n.Running && !n.Registered, "joining"}, {n.Lost, "lost"}, {n.Registered && !n.Ready, "unready"},
		{n.Ready && n.Running, "ready"}, {n.Cordoned, "cordoned"},
	} {
		if s.is {
			words = append(words, s.word)
		}
	}
	if n.refreshing() {
		words = append(words, fmt.Sprintf("refreshing-to=%d old-tokens=%d", n.Refresh.KeyVersion, n.stale))
		if n.down {
			words = append(words, "kubelet-down")
		}
		if !n.Refresh.Proven.IsZero() {
			words = append(words, "new-since="+n.Refresh.Proven.Format(time.TimeOnly))
		}
	}
	if pods := n.pods + n.ending; pods > 0 {
		words = append(words, fmt.Sprintf("pods=%d", pods))
	}
	return strings.Join(words, " ")
}
