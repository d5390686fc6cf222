package pools

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// executor is one of a cluster with pool a, at noon.
func executor() *Executor {
	return &Executor{
		Cluster: "c", Pools: []v1alpha1.NodePool{pool("a", 1, 1)}, Memory: &Memory{}, JoinTimeout: 10 * time.Minute,
		Now: noon,
	}
}

func TestReasons(t *testing.T) {
	with := func(change func(*View)) View { return with(healthy("n1", 1), change) }
	pod := func(name string, change func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
			Spec:       corev1.PodSpec{NodeName: "n1"},
		}
		if change != nil {
			change(&p)
		}
		return p
	}
	leaving := with(func(v *View) { v.Leaving, v.Cordoned = true, true })
	unready := with(func(v *View) { v.Ready = false })
	notReady := func(minutes int) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Message: "enough"},
				{
					Type: corev1.NodeReady, Status: corev1.ConditionFalse, Message: "no network",
					LastTransitionTime: metav1.NewTime(noon.Add(-time.Duration(minutes) * time.Minute)),
				},
			}}}
	}
	tests := []struct {
		name string
		view View
		node *corev1.Node
		pods []corev1.Pod
		want string
	}{
		{"healthy", healthy("n1", 1), nil, nil, ""},
		{"an orphan", View{Name: "n1", Pool: "a", Registered: true, Leaving: true}, nil, nil,
			"node n1 to be deleted, whose machine is gone; node pool a to have 1 machines (it has 0)"},
		{"leaving, without pods", leaving, nil, nil, "node n1 to be deleted; node pool a to have 1 machines (it has 0)"},
		{"leaving, with pods that do not run", with(func(v *View) { v.Leaving, v.Running = true, false }), nil,
			[]corev1.Pod{pod("p", nil)},
			"node n1 to be deleted; node pool a to have 1 machines (it has 0)"},
		{"drained", leaving, nil, []corev1.Pod{pod("p", nil), pod("q", nil)},
			"node n1 to be drained (2 pods are still to end); node pool a to have 1 machines (it has 0)"},
		{"a budget that heals", leaving, nil, []corev1.Pod{pod("p", nil), pod("heals", nil)},
			"pod ns/heals on node n1 to be evicted: words; node n1 to be drained (1 pods are still to end); node pool a to " +
				"have 1 machines (it has 0)"},
		{"a budget that heals, for long", leaving, nil, []corev1.Pod{pod("slow", nil)},
			"BLOCKED pod ns/slow on node n1 to be evicted: words, for 61s; node pool a to have 1 machines (it has 0)"},
		{"a budget that heals, for as long as that may take", leaving, nil, []corev1.Pod{pod("patient", nil)},
			"pod ns/patient on node n1 to be evicted: words, for 60s; node pool a to have 1 machines (it has 0)"},
		{"a budget that never heals", leaving, nil, []corev1.Pod{pod("hopeless", nil)},
			"BLOCKED pod ns/hopeless on node n1 to be evicted: words; node pool a to have 1 machines (it has 0)"},
		{"a stuck pod", leaving, nil,
			[]corev1.Pod{pod("p", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon.Add(-time.Minute)} })},
			"BLOCKED pod ns/p on node n1 to end, which has been terminating for 60s: inspect its containers and volumes, or " +
				"delete it by force; " +
				"node pool a to have 1 machines (it has 0)"},
		{"a pod that ends in time", leaving, nil,
			[]corev1.Pod{pod("heals", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} })},
			"node n1 to be drained (1 pods are still to end); node pool a to have 1 machines (it has 0)"},
		{"stopped", with(func(v *View) { v.Running, v.Ready = false, false }), nil, nil, "machine n1 to run"},
		{"joining", View{Name: "n1", Pool: "a", Machine: true, Running: true}, nil, nil, "machine n1 to join the cluster"},
		{"unready", unready, notReady(0), nil, "node n1 to be ready (no network)"},
		{"unready for half of the patience", unready, notReady(5), nil, "node n1 to be ready (no network), for 5m"},
		{"unready for longer", unready, notReady(6), nil, "BLOCKED node n1 to be ready (no network), for 6m"},
		{"ready, with a taint left", unready, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Message: "fine", LastTransitionTime: metav1.NewTime(noon),
			}}},
		}, nil, "node n1 to be ready"},
		{"without a condition", unready, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: "n1", CreationTimestamp: metav1.NewTime(noon.Add(-2 * time.Minute)),
		}}, nil, "node n1 to be ready, for 2m"},
		{"without labels", with(func(v *View) { v.Labelled = false }), nil, nil, "node n1 to get the labels of its pool"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := executor()
			e.Memory.refuse(map[types.UID]eviction.Refusal{
				"heals": {Since: noon, Words: "words"}, "slow": {Since: noon.Add(-61 * time.Second), Words: "words"},
				"patient":  {Since: noon.Add(-time.Minute), Words: "words"},
				"hopeless": {Since: noon, Words: "words", Hopeless: true},
			})
			s := &Observed{
				Views: []View{test.view}, objects: map[string]*corev1.Node{"n1": test.node},
				pods: map[string][]corev1.Pod{"n1": test.pods},
			}
			var got []string
			for _, r := range e.Reasons(s) {
				got = append(got, map[bool]string{true: "BLOCKED "}[r.Blocked]+r.Words)
			}
			if joined := strings.Join(got, "; "); joined != test.want {
				t.Errorf("got  %s\nwant %s", joined, test.want)
			}
		})
	}
}

// TestJoining has a machine not join for ever longer.
func TestJoining(t *testing.T) {
	e := executor()
	views := []View{
		{Name: "n1", Pool: "a", Machine: true, Running: true}, {Name: "n2", Machine: true},
		{Name: "n3", Machine: true, Running: true, Registered: true}, {Name: "n4", Registered: true},
	}
	for _, test := range []struct {
		after time.Duration
		want  nodes.Reason
	}{
		{0, nodes.Reason{Words: "machine n1 to join the cluster"}},
		{5 * time.Minute, nodes.Reason{Words: "machine n1 to join the cluster, for 5m"}},
		{5*time.Minute + time.Second, nodes.Reason{Words: "machine n1 to join the cluster, for 5m1s", Blocked: true}},
	} {
		e.Now = noon.Add(test.after)
		e.Memory.await(joining(views), e.Now)
		if got := e.reasons(&Observed{}, views[0]); len(got) != 1 || got[0] != test.want {
			t.Errorf("after %s: %+v, want %+v", test.after, got, test.want)
		}
	}
	if names := joining(views); fmt.Sprint(names) != "[n1]" {
		t.Errorf("joining are %v", names)
	}
	// Once it has joined, it begins from the start.
	e.Memory.await(nil, e.Now)
	e.Memory.await([]string{"n1"}, e.Now)
	if d := e.Memory.awaited("n1", e.Now); d != 0 {
		t.Errorf("it joined and left, and is awaited for %s", d)
	}
	if d := e.Memory.awaited("n2", e.Now); d != 0 {
		t.Errorf("one that is not awaited is for %s", d)
	}
}

func TestRefusalsKeepTheirTime(t *testing.T) {
	m := &Memory{}
	m.refuse(map[types.UID]eviction.Refusal{"a": {Since: noon, Words: "one"}, "b": {Since: noon}})
	m.refuse(map[types.UID]eviction.Refusal{
		"a": {Since: noon.Add(time.Minute), Words: "two"}, "c": {Since: noon.Add(time.Minute)},
	})
	for uid, want := range map[types.UID]eviction.Refusal{
		"a": {Since: noon, Words: "two"}, "c": {Since: noon.Add(time.Minute)},
	} {
		if got, ok := m.refusal(uid); !ok || got != want {
			t.Errorf("%s: %+v, %t; want %+v", uid, got, ok, want)
		}
	}
	if _, ok := m.refusal("b"); ok {
		t.Error("an eviction that was allowed is remembered as refused")
	}
}

func TestView(t *testing.T) {
	object := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{
				v1alpha1.LabelNodePool: "a", v1alpha1.LabelKeyVersion: "1", "color": "blue", "other": "theirs",
			}},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		}
		if change != nil {
			change(n)
		}
		return n
	}
	machine := nodes.Machine{Name: "n1", Pool: "a", KeyVersion: 1, Running: true}
	refreshing := machine
	refreshing.Refresh.KeyVersion = 2
	labelled := func(version string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels[v1alpha1.LabelKeyVersion] = version }
	}
	tainted := func(key string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "theirs"}, {Key: key}} }
	}
	tests := []struct {
		name    string
		machine nodes.Machine
		object  *corev1.Node
		want    string
	}{
		{"healthy", machine, object(nil), "registered ready labelled"},
		{"no Node object", machine, nil, ""},
		{"stopped", nodes.Machine{Name: "n1", Pool: "a", KeyVersion: 1}, object(nil), "registered labelled"},
		{
			"not ready", machine, object(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }),
			"registered labelled",
		},
		{"no condition", machine, object(func(n *corev1.Node) { n.Status.Conditions = nil }), "registered labelled"},
		{
			"another condition", machine, object(func(n *corev1.Node) { n.Status.Conditions[0].Type = "Other" }),
			"registered labelled",
		},
		{"still tainted", machine, object(tainted(corev1.TaintNodeNotReady)), "registered labelled"},
		{"unreachable", machine, object(tainted(corev1.TaintNodeUnreachable)), "registered labelled"},
		{"without network", machine, object(tainted(corev1.TaintNodeNetworkUnavailable)), "registered labelled"},
		{"with a taint of its pool", machine, object(tainted("pool")), "registered ready labelled"},
		{
			"leaving", machine, object(func(n *corev1.Node) { n.Annotations = map[string]string{AnnotationLeaving: ""} }),
			"registered ready leaving labelled",
		},
		{
			"cordoned", machine, object(func(n *corev1.Node) { n.Spec.Unschedulable = true }),
			"registered ready cordoned labelled",
		},
		{"without a label", machine, object(func(n *corev1.Node) { delete(n.Labels, "color") }), "registered ready"},
		{"with another label", machine, object(func(n *corev1.Node) { n.Labels["color"] = "" }), "registered ready"},
		{"with the label of another version", machine, object(labelled("2")), "registered ready"},
		{"refreshing, with the old label", refreshing, object(nil), "registered ready labelled"},
		{"refreshing, with the new label", refreshing, object(labelled("2")), "registered ready labelled"},
		{"refreshing, with another label", refreshing, object(labelled("3")), "registered ready"},
	}
	for _, test := range tests {
		e := executor()
		e.Pools[0].Labels = map[string]string{"color": "blue"}
		v := e.view(test.machine, test.object)
		var got []string
		for _, is := range []struct {
			is   bool
			word string
		}{
			{v.Registered, "registered"}, {v.Ready, "ready"}, {v.Leaving, "leaving"}, {v.Cordoned, "cordoned"},
			{v.Labelled, "labelled"},
		} {
			if is.is {
				got = append(got, is.word)
			}
		}
		if joined := strings.Join(got, " "); joined != test.want {
			t.Errorf("%s: %q, want %q", test.name, joined, test.want)
		}
		if v.Name != "n1" || v.Pool != "a" || v.KeyVersion != 1 || !v.Machine || v.Running != test.machine.Running {
			t.Errorf("%s: %+v", test.name, v)
		}
	}
	if labels := wantedLabels(machine, executor().pool("gone")); len(labels) != 2 {
		t.Errorf("labels of a machine whose pool is gone: %v", labels)
	}
}

func TestOrphans(t *testing.T) {
	s := &Observed{
		machines: map[string]nodes.Machine{"there": {}},
		objects: map[string]*corev1.Node{
			"there":  {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelNodePool: "a"}}},
			"theirs": {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelKeyVersion: "7"}}},
			"gone": {
				ObjectMeta: metav1.ObjectMeta{
					Labels: map[string]string{v1alpha1.LabelNodePool: "a", v1alpha1.LabelKeyVersion: "7"},
				},
			},
		},
	}
	want := View{Name: "gone", Pool: "a", KeyVersion: 7, Registered: true, Leaving: true}
	if got := orphans(s); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for name, want := range map[string]bool{"there": true, "theirs": true, "free": false} {
		if got := s.taken(name); got != want {
			t.Errorf("%s is taken: %t", name, got)
		}
	}
}
