package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

func TestReasons(t *testing.T) {
	v := with(healthy("n1", 1), func(v *View) {
		v.Refresh = nodes.Refresh{KeyVersion: 2, Since: begun}
		v.Held = Held{Known: true, Old: []string{"pod ns/p", "pod ns/q"}, RenewedBy: minute(40)}
	})
	started := func(v *View) { v.Refresh.Kubelet, v.Heard = minute(1), true }
	renewed := func(v *View) {
		started(v)
		v.Held.Old, v.Held.Renewed, v.Refresh.Proven = nil, true, minute(2)
	}
	const inPlace, wait = v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait
	tests := []struct {
		how    v1alpha1.NodeRefresh
		at     float64
		change func(*View)
		want   string
	}{
		{inPlace, 1, func(*View) {}, "the kubelet of node n1 to be started again"},
		{inPlace, 3, func(*View) {}, "BLOCKED the kubelet of node n1 to be started again"},
		{inPlace, 2.05, func(*View) {}, "the kubelet of node n1 to be started again"},
		{inPlace, 3.05, started, "pod ns/p to get a token of key version 2 (and 1 more)"},
		{inPlace, 2, started, "pod ns/p to get a token of key version 2 (and 1 more)"},
		{inPlace, 2, func(v *View) { started(v); v.Held.Old = v.Held.Old[:1] }, "pod ns/p to get a token of key version 2"},
		{
			inPlace, 4, started,
			"BLOCKED pod ns/p to get a token of key version 2 (and 1 more), which is overdue: read the events of the pod and " +
				"the log of the kubelet",
		},
		{
			inPlace, 2, func(v *View) { started(v); v.Held = Held{Trouble: "it ended"} },
			"the tokens on node n1 to be readable: it ended",
		},
		{inPlace, 2, func(v *View) { renewed(v); v.Heard = false }, "the kubelet of node n1 to report"},
		{inPlace, 3, func(v *View) { renewed(v); v.Heard = false }, "BLOCKED the kubelet of node n1 to report"},
		{
			inPlace, 3, renewed,
			"the applications on node n1 to read their new tokens, which is certain at 2026-01-01T12:07:00Z",
		},
		{
			inPlace, 3, func(v *View) { renewed(v); v.Refresh.Proven = time.Time{} },
			"the applications on node n1 to read their new tokens, which is certain at 2026-01-01T12:08:00Z",
		},
		{inPlace, 7, renewed, "node n1 to count as one of key version 2"},
		{
			inPlace, 42, func(v *View) { started(v); v.Refresh.Kubelet = minute(41) },
			"pod ns/p to get a token of key version 2 (and 1 more)",
		},
		{
			inPlace, 8, func(v *View) { renewed(v); v.Held.Stuck = []nodes.Reason{{Words: "pod ns/q to end"}} },
			"pod ns/q to end",
		},
		{
			inPlace, 1, func(v *View) { v.Held.Stuck = []nodes.Reason{{Words: "pod ns/q to end", Blocked: true}} },
			"BLOCKED pod ns/q to end; the kubelet of node n1 to be started again",
		},
		{
			wait, 4, func(*View) {},
			"pod ns/p to get a token of key version 2 (and 1 more), which is certain by 2026-01-01T12:40:00Z",
		},
		{
			wait, 41, func(*View) {},
			"pod ns/p to get a token of key version 2 (and 1 more), which is certain by 2026-01-01T12:40:00Z",
		},
		{
			wait, 42, func(*View) {},
			"BLOCKED pod ns/p to get a token of key version 2 (and 1 more), which is overdue: " +
				"read the events of the pod and the log of the kubelet",
		},
		{
			wait, 2, func(v *View) { renewed(v); v.Heard = false },
			"pods that were just starting on node n1 to have no old token, which is certain at 2026-01-01T12:02:03Z",
		},
	}
	for _, test := range tests {
		var got []string
		p := Policy{How: test.how, KeyVersion: 2, Reload: 5 * time.Minute}
		for _, r := range reasons(with(v, test.change), p, minute(test.at)) {
			if r.Blocked {
				r.Words = "BLOCKED " + r.Words
			}
			got = append(got, r.Words)
		}
		if joined := strings.Join(got, "; "); joined != test.want {
			t.Errorf("%s at %v:\n got  %s\n want %s", test.how, test.at, joined, test.want)
		}
	}
}

// TestReasonsOfTheReady leaves to the pools what a machine that is not ready waits for.
func TestReasonsOfTheReady(t *testing.T) {
	e := &Executor{
		Policy: Policy{How: v1alpha1.NodeRefreshInPlace, KeyVersion: 2}, Keys: nodes.Keys{Next: 2, Old: 1}, Now: minute(1),
	}
	refreshing := with(healthy("n1", 1), func(v *View) { v.Refresh = nodes.Refresh{KeyVersion: 2, Since: begun} })
	for _, test := range []struct {
		view View
		want string
	}{
		{refreshing, "the kubelet of node n1 to be started again"},
		{with(refreshing, func(v *View) { v.Ready = false }), ""},
		{healthy("n1", 1), ""},
		{healthy("n1", 2), ""},
	} {
		if got, _ := nodes.Join(e.Reasons(&Observed{Views: []View{test.view}})); got != test.want {
			t.Errorf("%+v: %q, want %q", test.view, got, test.want)
		}
	}
}

func TestToFollow(t *testing.T) {
	refreshing := func(name string, from, to int) View {
		return with(healthy(name, from), func(v *View) { v.Refresh.KeyVersion = to })
	}
	for _, test := range []struct {
		views []View
		want  string
	}{
		{nil, ""},
		{[]View{healthy("a", 1), healthy("b", 1)}, ""}, // none was begun
		{
			[]View{
				refreshing("a", 1, 2), healthy("b", 1), healthy("c", 2), refreshing("d", 1, 2), refreshing("e", 0, 1),
				healthy("f", 1),
			},
			"3 more of the nodes to get their turn",
		},
		{[]View{refreshing("a", 2, 2), healthy("b", 1)}, ""},
	} {
		words, _ := nodes.Join(toFollow(test.views))
		if words != test.want {
			t.Errorf("%+v: %q, want %q", test.views, words, test.want)
		}
	}
}
