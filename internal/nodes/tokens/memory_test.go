package tokens

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

func TestMemory(t *testing.T) {
	m := &Memory{}
	reads := 0
	read := func() ([]podTokens, error) { reads++; return make([]podTokens, reads), nil }
	of := nodes.Refresh{KeyVersion: 2, Since: begun}
	// Each differs in one member from the one before.
	restarted := of
	restarted.Kubelet = minute(1)
	later := restarted
	later.Since = minute(1)
	next := later
	next.KeyVersion = 3
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
		{"b", of, begun.Add(time.Second), 5},
		{"a", next, begun.Add(time.Second), 6},
		{"a", next, begun, 7}, // the clock was set back
		{"a", next, begun, 7},
	} {
		got, err := m.tokensOf(test.machine, test.refresh, test.at, time.Second, read)
		if err != nil || reads != test.reads || len(got) == 0 {
			t.Errorf("%d: %d reads, want %d (%v, %v)", i, reads, test.reads, got, err)
		}
	}
	m.keep(map[string]bool{"a": true})
	if _, kept := m.readings["a"]; !kept || len(m.readings) != 1 {
		t.Errorf("remembered besides a: %v", m.readings)
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
