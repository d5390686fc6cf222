package rotation

import (
	"slices"
	"testing"
)

// serving is an API server that is proven to run with these keys.
func serving(name string, k Keys) Server {
	return Server{Name: name, Configured: k, Running: k, Ready: true, Accepts: k.Verify, Signs: k.Sign}
}

// TestLeftover deletes a retired key version that was stored again, once nothing else is to be done and nothing uses
// it.
func TestLeftover(t *testing.T) {
	third, both := Keys{Verify: []int{3}, Sign: 3}, Keys{Verify: []int{2, 3}, Sign: 2}
	settled := Observed{
		Wanted: 3, Stored: []int{1, 3}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
		Servers: []Server{serving("cp-0", third)},
	}
	published := settled
	published.Stored, published.Servers = []int{1, 2, 3}, []Server{serving("cp-0", both)}
	published.Publications = []Publication{{Name: "the fleet", Accepts: both.Verify, CertainAt: later}}
	held := published // in the switch, which has one API server to go
	held.Servers = []Server{serving("cp-0", Keys{Verify: []int{2, 3}, Sign: 3}), serving("cp-1", both)}
	tests := []struct {
		name   string
		o      Observed
		change func(*Observed)
		kind   ActionKind
		step   Step
	}{
		{"nothing uses it", settled, func(*Observed) {}, DeleteKey, ""},
		{"it is not seen", settled, func(o *Observed) { o.Presence = PresenceUnknown }, Wait, ""},
		{"nodes are to come", settled, func(o *Observed) { o.Nodes.Converged = false }, ConvergeNodes, ""},
		{"a signer still has it", settled, func(o *Observed) {
			o.External, o.Servers[0].Configured.External = true, true
			o.Servers[0].Running = Keys{Verify: []int{1, 3}, Sign: 3, External: true}
		}, ConvergeControlPlane, ""},
		{"Publish waits", published, func(*Observed) {}, DeleteKey, StepPublish},
		{"Publish waits, and a disk has it", published, func(o *Observed) { o.Held = []int{1, 2, 3} }, Wait, StepPublish},
		{"the switch waits", held, func(*Observed) {}, DeleteKey, StepSwitch},
		{"the switch waits, and a manager has it", held, func(o *Observed) {
			o.ControllerManagers = []ControllerManager{{Name: "kcm-0", Configured: 1, Running: 1, Ready: true}}
		}, Wait, StepSwitch},
		{"Retire is blocked", published, func(o *Observed) {
			o.Publications, o.Legacy = nil, Legacy{Proven: 3, Final: 3}
			o.Servers[0] = serving("cp-0", Keys{Verify: []int{2, 3}, Sign: 3})
			o.Servers[0].Foreign = []string{"a"}
		}, Wait, StepRetire},
	}
	for _, test := range tests {
		o := test.o
		o.Servers = slices.Clone(o.Servers)
		test.change(&o)
		d := plan(o)
		deletes := d.Action.Kind == DeleteKey
		if d.Action.Kind != test.kind || d.Step != test.step || d.Done || d.Settled || d.Waiting == "" && deletes {
			t.Errorf("%s: %v, done %v", test.name, described{d}, d.Done)
		}
		if deletes && (d.Action.Version != 1 || d.Versions.Token == 0) {
			t.Errorf("%s: %+v", test.name, d)
		}
	}
	for _, stored := range [][]int{nil, {1}, {1, 2}, {4, 5}, {0, 2}} {
		if v, ok := leftover(Observed{Stored: stored}); ok {
			t.Errorf("of %v, %d is a leftover", stored, v)
		}
	}
}

// TestUses finds each process that runs, or is to start, with a key version, but for one that is leaving.
func TestUses(t *testing.T) {
	has, other := Keys{Verify: []int{1, 2}, Sign: 2}, Keys{Verify: []int{2}, Sign: 2}
	tests := []struct {
		name string
		o    Observed
		want bool
	}{
		{"nobody", Observed{
			Servers: []Server{serving("cp-0", other)}, ControllerManagers: []ControllerManager{{Configured: 2, Running: 2}},
		}, false},
		{"an API server that starts", Observed{Servers: []Server{{Configured: has, Running: other}}}, true},
		{"an API server that runs", Observed{Servers: []Server{{Configured: other, Running: has}}}, true},
		{"an API server that leaves", Observed{Servers: []Server{{Configured: has, Running: has, Leaving: true}}}, false},
		{"a manager that starts", Observed{ControllerManagers: []ControllerManager{{Configured: 1, Running: 2}}}, true},
		{"a manager that runs", Observed{ControllerManagers: []ControllerManager{{Configured: 2, Running: 1}}}, true},
	}
	for _, test := range tests {
		if got := uses(test.o, 1); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// TestOldestAlive distinguishes a version that was retired from one that may be lost.
func TestOldestAlive(t *testing.T) {
	tests := []struct {
		name string
		o    Observed
		want int
	}{
		{"nothing is stored", Observed{Wanted: 1}, 1},
		{"the first", Observed{Wanted: 1, Stored: []int{1}}, 1},
		{"a rotation runs", Observed{Wanted: 3, Stored: []int{2, 3}}, 2},
		{"the next is due", Observed{Wanted: 3, Stored: []int{2}}, 2},
		{"the last was seen to end", Observed{Wanted: 3, Stored: []int{3}, Completed: true}, 3},
		{"an API server dropped it", Observed{
			Wanted: 3, Stored: []int{3}, Servers: []Server{{Configured: Keys{Verify: []int{3}, Sign: 3}}},
		}, 3},
		{"nothing shows that it was retired", Observed{Wanted: 3, Stored: []int{3}}, 2},
	}
	for _, test := range tests {
		if got := oldestAlive(test.o); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// TestOnlyOne takes a version for the only one if nothing runs, is to start, or accepts, with another.
func TestOnlyOne(t *testing.T) {
	only, other := Keys{Verify: []int{2}, Sign: 2}, Keys{Verify: []int{1, 2}, Sign: 2}
	base := func() Observed {
		return Observed{
			Wanted: 2, Stored: []int{2}, Servers: []Server{serving("cp-0", only), serving("cp-1", only)},
			ControllerManagers: []ControllerManager{{Configured: 2, Running: 2}},
		}
	}
	tests := []struct {
		name   string
		change func(*Observed)
		want   bool
	}{
		{"it is", func(*Observed) {}, true},
		{"a process is down", func(o *Observed) {
			o.Servers[1].Running, o.ControllerManagers[0].Running = Keys{}, 0
		}, true},
		{"another is stored", func(o *Observed) { o.Stored = []int{1} }, false},
		{"no API server is there", func(o *Observed) { o.Servers = nil }, false},
		{"an API server has no keys", func(o *Observed) { o.Servers[1].Configured = Keys{} }, false},
		{"an API server is to start with another", func(o *Observed) { o.Servers[1].Configured = other }, false},
		{"an API server runs with another", func(o *Observed) { o.Servers[1].Running = other }, false},
		{"an API server accepts another", func(o *Observed) { o.Servers[1].Foreign = []string{"a"} }, false},
		{"one that leaves has another", func(o *Observed) {
			o.Servers[1] = serving("cp-1", other)
			o.Servers[1].Leaving = true
		}, true},
		{"a manager is to start with another", func(o *Observed) { o.ControllerManagers[0].Configured = 1 }, false},
		{"a manager runs with another", func(o *Observed) { o.ControllerManagers[0].Running = 1 }, false},
	}
	for _, test := range tests {
		o := base()
		test.change(&o)
		if got := onlyOne(o); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
