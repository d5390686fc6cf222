package tokens

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

func TestUnmanaged(t *testing.T) {
	running, over := nodes.Keys{Next: 3, Old: 2}, nodes.Keys{Next: 3}
	node := []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n"}}}
	outdated := func(pods ...string) map[string][]string {
		return map[string][]string{"n": pods, "other": {"pod ns/other"}}
	}
	tests := []struct {
		name    string
		u       Unmanaged
		keys    nodes.Keys
		version int
		plan    string
		reason  string
	}{
		{"no rotation runs", Unmanaged{Nodes: node}, over, 3, "", ""},
		{"nothing known yet", Unmanaged{Nodes: node}, running, 2, "note", ""},
		{"no older pods", Unmanaged{Nodes: node, Since: begun, Outdated: outdated()}, running, 3, "", ""},
		{"an older pod", Unmanaged{Nodes: node, Since: begun, Outdated: outdated("pod ns/p on node n")}, running, 2, "",
			"pod ns/p on node n to be deleted, which may hold a token older than key version 3: Keyturn did not make the node, and cannot read it"},
		{"older pods", Unmanaged{Nodes: node, Since: begun, Outdated: outdated("pod ns/p on node n", "q", "r")}, running, 2, "",
			"pod ns/p on node n to be deleted (and 2 more), which may hold a token older than key version 3: Keyturn did not make the node, and cannot read it"},
		{"an older pod, and no rotation", Unmanaged{Nodes: node, Since: begun, Outdated: outdated("pod ns/p on node n")}, over, 3, "", ""},
		{"no such node", Unmanaged{}, running, 2, "", ""},
	}
	for _, test := range tests {
		if got := test.u.keyVersion("n", test.keys); got != test.version {
			t.Errorf("%s: key version %d, want %d", test.name, got, test.version)
		}
		if got := words(test.u.plan(test.keys)); got != test.plan {
			t.Errorf("%s: plan %q, want %q", test.name, got, test.plan)
		}
		got := test.u.reasons(test.keys)
		if text, blocked := nodes.Join(got); text != test.reason || blocked != (text != "") {
			t.Errorf("%s: waits for %q, %t; want %q", test.name, text, blocked, test.reason)
		}
	}
}

func TestPredates(t *testing.T) {
	for _, test := range []struct {
		name string
		made time.Time
		pod  func(*corev1.Pod)
		want bool
	}{
		{"made before", minute(-1), nil, true},
		{"made then", begun, nil, true},
		{"made by a clock that is a little ahead", begun.Add(clockSlack), nil, true},
		{"made since", begun.Add(clockSlack + time.Second), nil, false},
		{"without a token", minute(-1), func(p *corev1.Pod) { p.Spec.Volumes = p.Spec.Volumes[2:] }, false},
	} {
		pod := tokenPod(test.pod)
		pod.CreationTimestamp = metav1.NewTime(test.made)
		if got := predates(pod, begun); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

func TestMemory(t *testing.T) {
	m := &Memory{}
	reads := 0
	read := func() ([]podTokens, error) { reads++; return make([]podTokens, reads), nil }
	of := nodes.Refresh{KeyVersion: 2, Since: begun}
	restarted, later, next := of, of, of
	restarted.Kubelet, later.Since, next.KeyVersion = minute(1), minute(1), 3
	for i, test := range []struct {
		machine string
		refresh nodes.Refresh
		at      time.Time
		reads   int
	}{
		{"a", of, begun, 1},
		{"a", of, begun.Add(time.Second - 1), 1},
		{"a", of, begun.Add(time.Second), 2},
		{"b", of, begun.Add(time.Second), 3},
		{"a", restarted, begun.Add(time.Second), 4},
		{"a", later, begun.Add(time.Second), 5},
		{"a", next, begun.Add(time.Second), 6},
		{"a", next, begun, 7}, // the clock was set back
		{"a", next, begun, 7},
	} {
		got, err := m.tokensOf(test.machine, test.refresh, test.at, time.Second, read)
		if err != nil || reads != test.reads || len(got) == 0 {
			t.Errorf("%d: %d reads, want %d (%v, %v)", i, reads, test.reads, got, err)
		}
	}
	fails := func() ([]podTokens, error) { return nil, fmt.Errorf("unreadable") }
	if _, err := m.tokensOf("a", of, begun, time.Second, fails); err == nil {
		t.Error("what could not be read is remembered")
	}
	m.keep(map[string]bool{"a": true, "b": false})
	if len(m.readings) != 0 {
		t.Errorf("remembered: %v", m.readings)
	}
}

func TestMemoryOfOutdatedPods(t *testing.T) {
	m := &Memory{}
	reads := 0
	read := func() (map[string][]string, error) {
		reads++
		return map[string][]string{"n": {fmt.Sprint(reads)}}, nil
	}
	for i, test := range []struct {
		keyID string
		at    time.Time
		reads int
	}{
		{"k2", begun, 1}, {"k2", begun, 1}, {"k2", minute(1), 2}, {"k3", minute(1), 3}, {"k3", begun, 4},
	} {
		got, err := m.outdatedPods(test.keyID, test.at, time.Minute, read)
		if err != nil || reads != test.reads || got["n"][0] != fmt.Sprint(reads) {
			t.Errorf("%d: %d reads, want %d (%v, %v)", i, reads, test.reads, got, err)
		}
	}
	fails := func() (map[string][]string, error) { return nil, fmt.Errorf("unreadable") }
	if _, err := m.outdatedPods("k4", begun, time.Minute, fails); err == nil {
		t.Error("what could not be read is remembered")
	}
}

func TestHeard(t *testing.T) {
	object := func(at time.Time) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, LastHeartbeatTime: metav1.NewTime(minute(60))},
			{Type: corev1.NodeReady, LastHeartbeatTime: metav1.NewTime(at)},
		}}}
	}
	started := begun.Add(900 * time.Millisecond)
	for _, test := range []struct {
		object  *corev1.Node
		started time.Time
		want    bool
	}{
		{nil, started, false},
		{object(begun), time.Time{}, false},
		{object(begun.Add(-time.Second)), started, false},
		{object(begun), started, true}, // times of a Node are cut off
		{object(minute(1)), started, true},
		{&corev1.Node{}, started, false},
	} {
		if got := heard(test.object, test.started); got != test.want {
			t.Errorf("%+v, started %s: %t", test.object, test.started, got)
		}
	}
}
