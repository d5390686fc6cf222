package pools

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func healthy(name string, version int) View {
	return View{
		Name: name, Pool: "a", KeyVersion: version, Machine: true, Running: true, Registered: true, Ready: true,
		Labelled: true,
	}
}

func with(v View, change func(*View)) View {
	change(&v)
	return v
}

func TestPlan(t *testing.T) {
	old, current := healthy("n1", 1), healthy("n2", 2)
	leaving := with(old, func(v *View) { v.Leaving, v.Cordoned = true, true })
	tests := []struct {
		name  string
		pools []v1alpha1.NodePool
		views []View
		want  string
	}{
		{"nothing wanted, nothing there", nil, nil, ""},
		{"as wanted", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{current}, ""},
		{
			"a new pool is made at once", []v1alpha1.NodePool{pool("a", 3, 1)}, nil,
			"create one of a, create one of a, create one of a",
		},
		{
			"surge in parallel", []v1alpha1.NodePool{pool("a", 2, 2)}, []View{old, healthy("n3", 1)},
			"create one of a, create one of a",
		},
		{"an old node is needed until its replacement is ready", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{old, with(current, func(v *View) { v.Ready = false })}, ""},
		{"and goes then", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{old, current}, "cordon n1 > evict n1"},
		{"crash between mark and cordon", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(old, func(v *View) { v.Leaving = true }), current}, "cordon n1 > evict n1"},
		{"somebody uncordoned it", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(leaving, func(v *View) { v.Cordoned = false }), current}, "cordon n1 > evict n1"},
		{"pods left", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(leaving, func(v *View) { v.Pods = 1 }), current}, "evict n1"},
		{"no pods left", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{leaving, current}, "deleteNode n1 > remove n1"},
		{"crash between Node object and machine", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(old, func(v *View) { v.Registered, v.Ready = false, false }), current}, "remove n1"},
		{"the Node object of a machine that is gone", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{{Name: "n0", Pool: "a", Registered: true, Leaving: true}, current}, "deleteNode n0"},
		{"a dead machine is started", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(current, func(v *View) { v.Running, v.Ready = false, false })}, "start n2"},
		{"a dead old machine is not, and is not drained", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(old, func(v *View) { v.Running, v.Ready = false, false })},
			"create one of a, deleteNode n1 > remove n1"},
		{"an unready old node needs no replacement first", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(old, func(v *View) { v.Ready = false })}, "create one of a, cordon n1 > evict n1"},
		{"unready nodes go one at a time", []v1alpha1.NodePool{pool("a", 2, 1)},
			[]View{with(old, func(v *View) { v.Ready = false }), with(healthy("n3", 1), func(v *View) { v.Ready = false })},
			"create one of a, cordon n1 > evict n1"},
		{"a ready node goes beside an unready one", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(leaving, func(v *View) { v.Ready, v.Pods = false, 1 }), current, healthy("n3", 1)},
			"evict n1, cordon n3 > evict n3"},
		{"a dead machine goes beside an unready one", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{
				with(leaving, func(v *View) { v.Ready, v.Pods = false, 1 }),
				with(healthy("n3", 1), func(v *View) { v.Running, v.Ready = false, false }),
			},
			"evict n1, deleteNode n3 > remove n3"},
		{"a machine that never joined is replaced", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{{Name: "n2", Pool: "a", KeyVersion: 2, Machine: true, Running: true, Lost: true}},
			"create one of a, remove n2"},
		{"scaled down: the unready one goes", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{current, with(healthy("n3", 2), func(v *View) { v.Ready = false })}, "cordon n3 > evict n3"},
		{"scaled down: the cordoned one goes", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{current, with(healthy("n3", 2), func(v *View) { v.Cordoned = true })}, "cordon n3 > evict n3"},
		{"scaled down and up again: what leaves, leaves", []v1alpha1.NodePool{pool("a", 2, 1)},
			[]View{current, with(healthy("n3", 2), func(v *View) { v.Leaving, v.Cordoned, v.Pods = true, true, 1 })},
			"create one of a, evict n3"},
		{"scaled down while replaced: old ones first", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{old, current, healthy("n3", 1)}, "cordon n1 > evict n1, cordon n3 > evict n3"},
		{"a removed pool", nil, []View{current, healthy("n3", 2)}, "cordon n2 > evict n2, cordon n3 > evict n3"},
		{"a later key version is fine", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{healthy("n3", 3)}, ""},
		{"labels are put back", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{with(current, func(v *View) { v.Labelled = false })}, "label n2"},
		{"a machine that has yet to join gets none", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{{Name: "n2", Pool: "a", KeyVersion: 2, Machine: true, Running: true}}, ""},
		{"the Node objects of machines that are gone take no room, and go by name", []v1alpha1.NodePool{pool("a", 2, 1)},
			[]View{
				{Name: "n1", Pool: "a", Registered: true, Leaving: true},
				{Name: "n0", Pool: "a", Registered: true, Leaving: true},
			},
			"deleteNode n0, deleteNode n1, create one of a, create one of a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan := Plan(test.pools, test.views, 2)
			if got := words(plan); got != test.want {
				t.Errorf("Plan:\n got  %s\n want %s", got, test.want)
			}
			for _, a := range slices.Concat(plan...) {
				if a.Pool != "a" {
					t.Errorf("%s is of pool %q, want a", a, a.Pool)
				}
			}
		})
	}
}

// words joins chains by commas, and their actions by arrows.
func words(chains []Chain) string {
	var out []string
	for _, c := range chains {
		var actions []string
		for _, a := range c {
			actions = append(actions, a.String())
		}
		out = append(out, strings.Join(actions, " > "))
	}
	return strings.Join(out, ", ")
}

func pool(name string, replicas, maxSurge int32) v1alpha1.NodePool {
	return v1alpha1.NodePool{Name: name, Replicas: replicas, MaxSurge: maxSurge}
}

func TestGoing(t *testing.T) {
	plan := []Chain{
		{{Step: Create, Pool: "a"}}, {{Step: Start, Node: "starts"}}, {{Step: Label, Node: "labelled"}},
		{{Step: Cordon, Node: "cordoned"}, {Step: Evict, Node: "cordoned"}}, {{Step: Evict, Node: "evicted"}},
		{{Step: DeleteNode, Node: "deleted"}}, {{Step: Remove, Node: "removed"}},
	}
	want := map[string]bool{"cordoned": true, "evicted": true, "deleted": true, "removed": true}
	if got := Going(plan); !maps.Equal(got, want) {
		t.Errorf("going are %v, want %v", got, want)
	}
}

func TestConverged(t *testing.T) {
	two := []View{healthy("n1", 1), healthy("n2", 2)}
	one := two[:1]
	tests := []struct {
		name  string
		pools []v1alpha1.NodePool
		views []View
		want  bool
	}{
		{"nothing wanted, nothing there", nil, nil, true},
		{"a pool of zero", []v1alpha1.NodePool{pool("a", 0, 1)}, nil, true},
		{"a pool of zero beside another", []v1alpha1.NodePool{pool("a", 2, 1), pool("b", 0, 1)}, two, true},
		{"as wanted", []v1alpha1.NodePool{pool("a", 2, 1)}, two, true},
		{"too few", []v1alpha1.NodePool{pool("a", 2, 1)}, one, false},
		{"none yet", []v1alpha1.NodePool{pool("a", 1, 1)}, nil, false},
		{"too many", []v1alpha1.NodePool{pool("a", 1, 1)}, two, false},
		{"of another pool", nil, one, false},
		{
			"of another pool beside", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{one[0], with(healthy("n3", 1), func(v *View) { v.Pool = "b" })}, false,
		},
		{
			"half made, of no pool yet", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{one[0], {Name: "n3", Machine: true}},
			false,
		},
		{"a Node object without a machine", []v1alpha1.NodePool{pool("a", 1, 1)},
			[]View{one[0], {Name: "n0", Pool: "a", Registered: true, Leaving: true}}, false},
		{"unready", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{with(one[0], func(v *View) { v.Ready = false })}, false},
		{"leaving", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{with(one[0], func(v *View) { v.Leaving = true })}, false},
		{
			"without labels", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{with(one[0], func(v *View) { v.Labelled = false })},
			false,
		},
		{
			"without a machine", []v1alpha1.NodePool{pool("a", 1, 1)}, []View{with(one[0], func(v *View) { v.Machine = false })},
			false,
		},
	}
	for _, test := range tests {
		if got := Converged(test.pools, test.views); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

// TestByUse has machines in the order in which they are missed, least first. Each differs from the next in one thing
// only, except for what counts less, which says the opposite.
func TestByUse(t *testing.T) {
	want := []View{
		{Name: "h", KeyVersion: 9},
		{Name: "g", KeyVersion: 9, Registered: true, Cordoned: true},
		{Name: "f", KeyVersion: 9, Registered: true},
		{Name: "e", KeyVersion: 9, Running: true, Cordoned: true},
		{Name: "d", KeyVersion: 1, Running: true},
		{Name: "c", KeyVersion: 2, Running: true},
		{Name: "x", KeyVersion: 2, Running: true},
		{Name: "b", KeyVersion: 1, Running: true, Registered: true, Cordoned: true},
		{Name: "a", Ready: true, Cordoned: true},
	}
	for i, a := range want {
		for j, b := range want {
			if got := byUse(a, b); got != cmp.Compare(i, j) {
				t.Errorf("byUse(%s, %s) = %d, want %d", a.Name, b.Name, got, cmp.Compare(i, j))
			}
		}
	}
}

// TestDivide counts what is left while machines are chosen to go.
func TestDivide(t *testing.T) {
	unready := func(name string) View { return with(healthy(name, 1), func(v *View) { v.Ready = false }) }
	tests := []struct {
		name  string
		pool  v1alpha1.NodePool
		views []View
		want  string
	}{
		{"two of three ready nodes stay", pool("a", 2, 1),
			[]View{healthy("n1", 1), healthy("n2", 2), healthy("n3", 1)}, "n1"},
		{"an unready node waits for one that leaves", pool("a", 1, 1),
			[]View{with(unready("n1"), func(v *View) { v.Leaving = true }), unready("n2")}, "n1"},
		{"an unready node does not wait for one that leaves and was ready", pool("a", 1, 1),
			[]View{with(healthy("n1", 1), func(v *View) { v.Leaving = true }), unready("n2")}, "n1 n2"},
		{"an unready node that goes keeps no ready one", pool("a", 1, 1),
			[]View{unready("n1"), healthy("n2", 2), healthy("n3", 1)}, "n1 n3"},
		{"a surge lets two unready nodes go", pool("a", 3, 2),
			[]View{unready("n1"), unready("n2"), unready("n3")}, "n1 n2"},
		{"the surplus that is missed least goes", pool("a", 1, 1),
			[]View{healthy("n1", 2), with(healthy("n2", 2), func(v *View) { v.Running, v.Ready = false, false })}, "n2"},
		{"an unready machine without a node drains nothing", pool("a", 2, 1),
			[]View{unready("n1"), with(unready("n2"), func(v *View) { v.Registered = false })}, "n2 n1"},
	}
	for _, test := range tests {
		staying, going := divide(test.pool, test.views, 2)
		var names []string
		for _, v := range going {
			names = append(names, v.Name)
		}
		if got := strings.Join(names, " "); got != test.want || len(staying)+len(going) != len(test.views) {
			t.Errorf("%s: %s go and %d stay, want %s to go of %d", test.name, got, len(staying), test.want, len(test.views))
		}
	}
}
