package nodes

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestJoin(t *testing.T) {
	waits := func(words string) Reason { return Reason{Words: words} }
	blocks := func(words string) Reason { return Reason{Words: words, Blocked: true} }
	for _, test := range []struct {
		reasons []Reason
		want    string
		blocked bool
	}{
		{nil, "", false},
		{[]Reason{waits("a")}, "a", false},
		{[]Reason{waits("a"), waits("b"), waits("c")}, "a; b; c", false},
		{[]Reason{waits("a"), waits("b"), waits("c"), waits("d")}, "a; b; c; and 1 more", false},
		{[]Reason{waits("a"), waits("b"), blocks("c"), waits("d"), blocks("e")}, "c; e; a; and 2 more", true},
		{[]Reason{waits("b"), blocks("a"), waits("a")}, "a; b; a", true},
		{[]Reason{blocks("b"), waits("a")}, "b; a", true},
	} {
		before := append([]Reason(nil), test.reasons...)
		words, blocked := Join(test.reasons)
		if words != test.want || blocked != test.blocked {
			t.Errorf("%+v: %q, %t; want %q, %t", test.reasons, words, blocked, test.want, test.blocked)
		}
		for i := range before {
			if before[i] != test.reasons[i] {
				t.Errorf("Join changed what it was given: %+v", test.reasons)
			}
		}
	}
}

func TestLasting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", Patience - 1: "", Patience: ", for 60s", 3 * time.Minute: ", for 3m",
	} {
		if got := Lasting(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestStuckPod(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	grace := int64(60)
	for _, test := range []struct {
		late   time.Duration
		change func(*corev1.Pod)
		want   string
	}{
		{-time.Minute, nil, ""},
		{stuckAfter - 1, nil, ""},
		{
			stuckAfter, nil,
			"pod ns/p to end, which has been terminating for 30s: inspect its containers and volumes, or delete it by force",
		},
		{
			2 * time.Minute, func(p *corev1.Pod) { p.DeletionGracePeriodSeconds = &grace },
			"pod ns/p to end, which has been terminating for 3m: inspect its containers and volumes, or delete it by force",
		},
		{
			2 * time.Minute, func(p *corev1.Pod) { p.Finalizers = []string{"a/b", "c/d"}; p.Spec.NodeName = "n" },
			"pod ns/p on node n to end, which has been terminating for 2m: whoever set its finalizers a/b, c/d must remove them",
		},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "p", DeletionTimestamp: &metav1.Time{Time: now.Add(-test.late)},
		}}
		if test.change != nil {
			test.change(pod)
		}
		r, late := StuckPod(pod, now)
		if r.Words != test.want || late != (test.want != "") || r.Blocked != late {
			t.Errorf("%s late: %+v, %t; want %q", test.late, r, late, test.want)
		}
	}
}

func TestOldest(t *testing.T) {
	of := func(versions ...int) (all []Node) {
		for _, v := range versions {
			all = append(all, Node{KeyVersion: v})
		}
		return all
	}
	for _, test := range []struct {
		all  []Node
		want int
	}{{nil, 0}, {of(3), 3}, {of(3, 2, 4), 2}, {of(2, 0), 1}, {of(0, 2), 1}, {of(1, 1), 1}} {
		if got := Oldest(test.all); got != test.want {
			t.Errorf("%+v: %d, want %d", test.all, got, test.want)
		}
	}
}

func TestRefreshing(t *testing.T) {
	for _, test := range []struct {
		of, to int
		want   bool
	}{{1, 0, false}, {1, 1, false}, {1, 2, true}, {2, 1, false}} {
		if got := (Machine{KeyVersion: test.of, Refresh: Refresh{KeyVersion: test.to}}).Refreshing(); got != test.want {
			t.Errorf("of %d to %d: %t", test.of, test.to, got)
		}
	}
}

// TestReadyCondition finds the condition Ready among others, and none where there is none.
func TestReadyCondition(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
	}}}
	if c := ReadyCondition(node); c.Type != corev1.NodeReady || c.Status != corev1.ConditionTrue {
		t.Errorf("found %+v", c)
	}
	if c := ReadyCondition(&corev1.Node{}); c != (corev1.NodeCondition{}) {
		t.Errorf("found %+v on a node without conditions", c)
	}
}
