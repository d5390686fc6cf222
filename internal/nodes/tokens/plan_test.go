package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// begun is when the refresh of these tests began: minutes are counted from it.
var begun = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func minute(m float64) time.Time { return begun.Add(time.Duration(m * float64(time.Minute))) }

func TestPlan(t *testing.T) {
	const inPlace, wait, evict = v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait, v1alpha1.NodeRefreshEvict
	evicted := func(name string) View { return with(healthy(name, 1), func(v *View) { v.Evicted = true }) }
	begin := func(name string) View {
		return with(healthy(name, 1), func(v *View) {
			v.Refresh = nodes.Refresh{KeyVersion: 2, Since: begun}
			v.Held = Held{Known: true, Old: []string{"pod ns/p"}}
		})
	}
	started := func(name string) View {
		return with(begin(name), func(v *View) { v.Refresh.Kubelet, v.Heard = minute(1), true })
	}
	renewed := func(name string) View {
		return with(started(name), func(v *View) { v.Held.Old, v.Held.Renewed = nil, true })
	}
	proven := func(name string) View { return with(renewed(name), func(v *View) { v.Refresh.Proven = minute(2) }) }
	tests := []struct {
		name  string
		how   v1alpha1.NodeRefresh
		at    float64
		views []View
		want  string
	}{
		{"one at a time", inPlace, 0, []View{healthy("n1", 1), healthy("n2", 1)}, "begin n1 > restartKubelet n1"},
		{"all at once", wait, 0, []View{healthy("n1", 1), healthy("n2", 1)}, "begin n1, begin n2"},
		{"of the new version", inPlace, 0, []View{healthy("n1", 2)}, ""},
		{"one that is not ready has no kubelet to spare", inPlace, 0,
			[]View{with(healthy("n1", 1), func(v *View) { v.Ready = false }), healthy("n2", 1)},
			"begin n2 > restartKubelet n2"},
		{
			"one that does not run", inPlace, 0,
			[]View{with(healthy("n1", 1), func(v *View) { v.Running, v.Ready = false, false })}, "",
		},
		{"crash between begin and restart", inPlace, 1, []View{begin("n1"), healthy("n2", 1)}, "restartKubelet n1"},
		{
			"the refresh of an earlier rotation", inPlace, 1,
			[]View{with(begin("n1"), func(v *View) { v.Refresh.KeyVersion = 1 })}, "begin n1 > restartKubelet n1",
		},
		{
			"crash between begin and restart, with pods that have new tokens", inPlace, 1,
			[]View{with(begin("n1"), func(v *View) { v.Held.Old, v.Heard = nil, true }), healthy("n2", 1)}, "restartKubelet n1",
		},
		{"old tokens", inPlace, 1, []View{started("n1"), healthy("n2", 1)}, ""},
		{"not heard of", inPlace, 2, []View{with(renewed("n1"), func(v *View) { v.Heard = false }), healthy("n2", 1)}, ""},
		{"not ready", inPlace, 2, []View{with(renewed("n1"), func(v *View) { v.Ready = false }), healthy("n2", 1)}, ""},
		{
			"tokens that could not be read", inPlace, 2,
			[]View{with(renewed("n1"), func(v *View) { v.Held = Held{} }), healthy("n2", 1)}, "",
		},
		{"renewed: the next", inPlace, 2, []View{renewed("n1"), healthy("n2", 1)}, "prove n1, begin n2 > restartKubelet n2"},
		{"applications still may use old tokens", inPlace, 6.9, []View{proven("n1")}, ""},
		{"and may not", inPlace, 7, []View{proven("n1")}, "refreshed n1"},
		{"proven in the future: a clock was wrong", inPlace, 7,
			[]View{with(proven("n1"), func(v *View) { v.Refresh.Proven = minute(60) })}, "prove n1"},
		{"a pod holds an old token", inPlace, 60,
			[]View{with(proven("n1"), func(v *View) { v.Held.Stuck = []nodes.Reason{{}} }), healthy("n2", 1)},
			"begin n2 > restartKubelet n2"},
		{
			"an old token turned up again", inPlace, 60,
			[]View{with(proven("n1"), func(v *View) { v.Held.Old = []string{"x"} })}, "",
		},
		{
			"no pods had an old token", inPlace, 2, []View{with(renewed("n1"), func(v *View) { v.Held.Renewed = false })},
			"refreshed n1",
		},
		{"waiting: no kubelet is ended", wait, 2, []View{begin("n1")}, ""},
		{
			"waiting: pods may be starting with an old token", wait, 2,
			[]View{with(begin("n1"), func(v *View) { v.Held.Old = nil })}, "",
		},
		{
			"waiting: they no longer are", wait, 2.06,
			[]View{with(begin("n1"), func(v *View) { v.Held.Old, v.Held.Renewed = nil, true })}, "prove n1",
		},
		{
			"one that is going is left alone", inPlace, 1,
			[]View{with(begin("n1"), func(v *View) { v.Going = true }), healthy("n2", 1)}, "",
		},
		{
			"one that is going begins nothing", wait, 1,
			[]View{with(healthy("n1", 1), func(v *View) { v.Going = true }), healthy("n2", 1)}, "begin n2",
		},
		{"one that is not registered", wait, 1, []View{with(healthy("n1", 1), func(v *View) { v.Registered = false })}, ""},
		{
			"a machine that stopped meanwhile", inPlace, 60,
			[]View{with(proven("n1"), func(v *View) { v.Running = false }), healthy("n2", 1)}, "",
		},
		{
			"its kubelet has died since", inPlace, 60,
			[]View{with(proven("n1"), func(v *View) { v.Refresh.Kubelet = time.Time{} })}, "restartKubelet n1",
		},
		{
			"in the order of names", wait, 0, []View{healthy("n2", 1), healthy("n3", 1), healthy("n1", 1)},
			"begin n1, begin n2, begin n3",
		},
		{
			"one that does not run begins nothing", wait, 0, []View{with(healthy("n1", 1), func(v *View) { v.Running = false })},
			"",
		},
		{"one that stopped before its kubelet was restarted", inPlace, 1,
			[]View{with(begin("n1"), func(v *View) { v.Running, v.Ready = false, false })}, ""},
		{"the first of two is not renewed", inPlace, 2, []View{started("n1"), renewed("n2"), healthy("n3", 1)}, "prove n2"},
		{"its pods are evicted", evict, 1, []View{evicted("n1"), healthy("n2", 1), begin("n3")}, "refreshed n1"},
		{
			"its pods are evicted, and it is going", evict, 1, []View{with(evicted("n1"), func(v *View) { v.Going = true })}, "",
		},
		{"no node stays", v1alpha1.NodeRefreshReplace, 0, []View{healthy("n1", 1)}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := Policy{How: test.how, KeyVersion: 2, Reload: 5 * time.Minute}
			if got := words(Plan(test.views, p, minute(test.at))); got != test.want {
				t.Errorf("Plan:\n got  %s\n want %s", got, test.want)
			}
		})
	}
}

func healthy(name string, version int) View {
	return View{
		Machine: nodes.Machine{Name: name, Pool: "a", KeyVersion: version, Running: true}, Registered: true, Ready: true,
	}
}

func with(v View, change func(*View)) View {
	change(&v)
	return v
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
