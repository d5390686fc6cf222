package rotation

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestBrokenStore pins the decisions about a store, or a spec, that no rotation leads to.
func TestBrokenStore(t *testing.T) {
	runs := func(k Keys) []Server { return []Server{{Name: "cp-0", Configured: k, Running: k, Ready: true}} }
	tests := []struct {
		name string
		o    Observed
	}{
		{"all keys are lost", Observed{Wanted: 2}},
		{
			"the only key is lost, and an API server has it",
			Observed{Wanted: 1, Servers: runs(Keys{Verify: []int{1}, Sign: 1})},
		},
		{
			"the new key is lost while it is published",
			Observed{Wanted: 2, Stored: []int{1}, Servers: runs(Keys{Verify: []int{1, 2}, Sign: 1})},
		},
		{
			"the old key is lost while it is accepted",
			Observed{Wanted: 2, Stored: []int{2}, Servers: runs(Keys{Verify: []int{1, 2}, Sign: 2})},
		},
		{"the old key is lost while only a kube-controller-manager is seen", Observed{
			Wanted: 2, Stored: []int{2}, ControllerManagers: []ControllerManager{{Name: "kcm-0", Configured: 1}},
		}},
		{"the spec went back", Observed{Wanted: 1, Stored: []int{2}}},
		{"the spec went back while a rotation runs", Observed{Wanted: 1, Stored: []int{1, 2}}},
		{"the spec ran ahead", Observed{Wanted: 4, Stored: []int{1, 2}}},
		{"the spec is empty", Observed{}},
		{"a key before the first", Observed{Wanted: 1, Stored: []int{0, 1}}},
	}
	var b strings.Builder
	for _, test := range tests {
		test.o.Presence = PresencePresent
		d := plan(test.o)
		if !d.Blocked || d.Blind || d.Action.Kind != Wait || d.Step != "" {
			t.Errorf("%s: %v", test.name, described{d})
		}
		fmt.Fprintf(&b, "%s: stored %v, wanted %d\n  %s\n", test.name, test.o.Stored, test.o.Wanted, d.Waiting)
	}
	golden(t, "broken-store", b.String())
}

// TestRetiredKeys holds what becomes of a key version that was retired and turns up again: it goes, and is never asked
// for.
func TestRetiredKeys(t *testing.T) {
	first, second, third := Keys{
		Verify: []int{1}, Sign: 1,
	}, Keys{Verify: []int{2}, Sign: 2}, Keys{Verify: []int{3}, Sign: 3}
	runs := func(k Keys) []Server {
		return []Server{{Name: "cp-0", Configured: k, Running: k, Ready: true, Accepts: k.Verify, Signs: k.Sign}}
	}
	bringUp := converge(second, 2)
	bringUp.Target.Next = "cp-0"
	settled := Nodes{Converged: true}
	tests := []struct {
		name string
		o    Observed
		want Action
	}{
		{"the only API server has it", Observed{Wanted: 2, Completed: true, Stored: []int{2}, Servers: runs(first)}, bringUp},
		{"one API server has it", Observed{Wanted: 2, Stored: []int{2}, Servers: append(runs(first), Server{
			Name: "cp-1", Configured: second, Running: second,
		})}, bringUp},
		{"kube-controller-manager has it", Observed{
			Wanted: 2, Stored: []int{2}, Servers: runs(second),
			ControllerManagers: []ControllerManager{{Name: "kcm-0", Configured: 1}},
		}, converge(second, 2)},
		{
			"a disk has it", Observed{Wanted: 2, Stored: []int{2}, Servers: runs(second), Held: []int{1, 2}},
			converge(second, 2),
		},
		{
			"the store has it", Observed{Wanted: 3, Stored: []int{1, 3}, Servers: runs(third)},
			Action{Kind: DeleteKey, Version: 1},
		},
		{"the store has it in a rotation, which goes first",
			Observed{Wanted: 3, Stored: []int{1, 2, 3}, Servers: runs(second)}, func() Action {
				a := converge(Keys{Verify: []int{2, 3}, Sign: 2}, 2)
				a.Target.Next = "cp-0"
				return a
			}()},
		{"the store and an API server have it", Observed{Wanted: 3, Stored: []int{1, 3}, Servers: append(runs(third), Server{
			Name: "cp-1", Configured: first, Running: first,
		})}, func() Action {
			a := converge(third, 3)
			a.Target.Next = "cp-1"
			return a
		}()},
	}
	for _, test := range tests {
		test.o.Presence, test.o.Nodes = PresencePresent, settled
		d := plan(test.o)
		if !reflect.DeepEqual(d.Action, test.want) || d.Blocked || d.Settled {
			t.Errorf("%s: %v, want %s", test.name, described{d}, describe(test.want))
		}
		if err := wellFormed(test.o, d); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestForeignKeys holds Retire until the user has released keys that are no version of ours.
func TestForeignKeys(t *testing.T) {
	both := Keys{Verify: []int{1, 2}, Sign: 2}
	o := Observed{
		Wanted: 2, Stored: []int{1, 2}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
		Legacy: Legacy{Proven: 2, Final: 2},
		Servers: []Server{
			{
				Name: "cp-0", Configured: both, Running: both, Ready: true, Accepts: both.Verify, Signs: 2,
				Foreign: []string{"b", "a"},
			},
		},
	}
	d := plan(o)
	if d.Step != StepRetire || d.Action.Kind != Wait || !d.Blocked ||
		!strings.Contains(d.Waiting, "keyturn.dev/release-foreign-keys=a,b") {
		t.Errorf("before they are released: %v", described{d})
	}
	o.ForeignMayGo = []string{"a"}
	if d := plan(o); !d.Blocked || !strings.Contains(d.Waiting, "release-foreign-keys=a,b") {
		t.Errorf("with one released: %v", described{d})
	}
	another := o
	another.Servers = append(slices.Clone(o.Servers), serving("cp-1", both))
	another.Servers[1].Foreign = o.ForeignMayGo
	if d := plan(another); !d.Blocked {
		t.Errorf("with one released, which is all that the second API server accepts: %v", described{d})
	}
	o.ForeignMayGo = []string{"a", "b"}
	if d := plan(o); d.Blocked || d.Action.Target.Next != "cp-0" || len(d.Action.Target.DropForeign) != 2 {
		t.Errorf("after they are released: %v, %+v", described{d}, d.Action)
	}
	o.Legacy = Legacy{}
	o.Servers[0].Signs, o.Servers[0].Configured.Sign, o.Servers[0].Running.Sign = 1, 1, 1
	if d := plan(o); d.Step != StepSwitch || d.Action.Target.Next != "cp-0" || len(d.Action.Target.DropForeign) != 2 {
		t.Errorf("in the switch: %v, %+v", described{d}, d.Action)
	}
}

// TestDoneWithForeignKeys pins the decisions about a cluster in which no rotation runs, and API servers accept keys
// that are no version of ours, and walks the way out.
func TestDoneWithForeignKeys(t *testing.T) {
	at := func(version int, mayGo []string, foreign ...[]string) Decision {
		k := Keys{Verify: []int{version}, Sign: version}
		o := Observed{
			Wanted: version, Stored: k.Verify, Presence: PresencePresent, Nodes: Nodes{Converged: true}, ForeignMayGo: mayGo,
		}
		for i, kids := range foreign {
			o.Servers = append(o.Servers, Server{
				Name: serverName(i), Configured: k, Running: k, Ready: true, Accepts: k.Verify, Signs: version, Foreign: kids,
			})
		}
		d := plan(o)
		if err := wellFormed(o, d); err != nil {
			t.Errorf("%v: %v", described{d}, err)
		}
		return d
	}
	a, b, both := []string{"a"}, []string{"b"}, []string{"a", "b"}
	for _, mayGo := range [][]string{nil, a} {
		if d := at(1, mayGo, a); !d.Done || !d.Settled {
			t.Errorf("key version 1, and %v may go: %v", mayGo, described{d})
		}
	}
	d := at(2, nil, b, nil, a)
	if d.Done || d.Settled || !d.Blocked || d.Action.Target.Next != "" ||
		!strings.Contains(d.Waiting, "API servers cp-0, cp-2 accept") ||
		!strings.HasSuffix(d.Waiting, "keyturn.dev/release-foreign-keys=a,b") {
		t.Errorf("nobody has released them: %v", described{d})
	}
	if d := at(2, a, b, nil, both); d.Done || d.Blocked || d.Action.Target.Next != "cp-2" {
		t.Errorf("one is released: %v", described{d})
	}
	if d := at(2, both, []string{"b", "a"}); !strings.Contains(d.Waiting, "stop accepting the keys a,b, which may go") {
		t.Errorf("both are released: %v", described{d})
	}
	if d := at(2, a, b); !d.Blocked {
		t.Errorf("another one is released: %v", described{d})
	}
	if d := at(2, both, nil, nil, nil); !d.Done || !d.Settled {
		t.Errorf("they are gone: %v", described{d})
	}
}

// TestForeignBootstrap has the next API server to come lose a foreign key that may go before those that are there.
func TestForeignBootstrap(t *testing.T) {
	k := Keys{Verify: []int{2}, Sign: 2}
	o := Observed{
		Wanted: 2, Stored: k.Verify, Presence: PresencePresent, Nodes: Nodes{Converged: true}, Bootstrap: k,
		BootstrapForeign: []string{"b", "a"}, ForeignMayGo: []string{"a"},
		Servers: []Server{
			{Name: "cp-0", Configured: k, Running: k, Ready: true, Accepts: k.Verify, Signs: 2, Foreign: []string{"a"}},
		},
	}
	target := plan(o).Action.Target
	if !target.Bootstrap || target.Next != "" || !slices.Equal(target.DropForeign, o.ForeignMayGo) {
		t.Errorf("the target is %+v", target)
	}
	o.BootstrapForeign = o.BootstrapForeign[:1]
	if target = plan(o).Action.Target; target.Bootstrap || target.Next != "cp-0" {
		t.Errorf("the target is then %+v", target)
	}
}

// TestBootstrapWhileAnotherIsOut says what the next API server to come may start with while one that is there starts.
func TestBootstrapWhileAnotherIsOut(t *testing.T) {
	only := func(version int) Keys { return Keys{Verify: []int{version}, Sign: version} }
	both := Keys{Verify: []int{1, 2}, Sign: 2}
	tests := []struct {
		name            string
		stored          []int
		runs, bootstrap Keys
		foreign         []string
		want            bool
	}{
		{"it has the keys from before the last rotation", []int{2}, only(2), only(1), nil, true},
		{"it has a foreign key that may go", []int{2}, only(2), only(2), []string{"a"}, true},
		{"it has a foreign key that may not go", []int{2}, only(2), only(2), []string{"b"}, false},
		{"it has a foreign key, and there was no rotation", []int{1}, only(1), only(1), []string{"a"}, false},
		{"it has a foreign key, and the old one, which goes", []int{1, 2}, both, both, []string{"a"}, false},
	}
	for _, test := range tests {
		o := Observed{
			Wanted: test.runs.Sign, Stored: test.stored, Presence: PresencePresent, Nodes: Nodes{Converged: true},
			Legacy:    Legacy{Proven: 2, Final: 2},
			Servers:   []Server{serving("cp-0", only(test.runs.Sign)), serving("cp-1", test.runs)},
			Bootstrap: test.bootstrap, BootstrapForeign: test.foreign, ForeignMayGo: []string{"a"},
		}
		o.Servers[0].Refuses = []int{1}
		o.Servers[1].Ready, o.Servers[1].Waiting = false, "starting"
		d := plan(o)
		if d.Waiting != "API server cp-1: starting" || d.Action.Target.Bootstrap != test.want {
			t.Errorf("%s: %v, bootstrap %t", test.name, described{d}, d.Action.Target.Bootstrap)
		}
	}
}

// TestAdoptWaits holds an adoption until every API server has shown the one key with which all sign.
func TestAdoptWaits(t *testing.T) {
	signs := func(kids ...string) (servers []Server) {
		for i, kid := range kids {
			servers = append(servers, Server{Name: serverName(i), Ready: true, SignsForeign: kid})
		}
		return servers
	}
	leaving := signs("kid-1", "kid-2")
	leaving[1].Leaving = true
	down := []Server{{Name: "cp-0", Waiting: "down"}}
	if d := plan(Observed{
		Adopted: true, Wanted: 1, Presence: PresencePresent, Servers: down,
	}); d.Waiting != "API server cp-0: down" {
		t.Errorf("with its API server down, it waits for %q", d.Waiting)
	}
	if d := plan(Observed{
		Adopted: true, Wanted: 1, Presence: PresencePresent, Servers: signs("kid-1", ""),
	}); d.Waiting != "API server cp-1 to issue a token" {
		t.Errorf("with no token of an API server, it waits for %q", d.Waiting)
	}
	tests := []struct {
		name    string
		o       Observed
		want    ActionKind
		blocked bool
	}{
		{"it is absent", Observed{Presence: PresenceAbsent}, Wait, false},
		{"it is not seen", Observed{Servers: signs("kid-1")}, Wait, false},
		{"no API server is listed", Observed{Presence: PresencePresent}, Wait, false},
		{"one is down", Observed{Presence: PresencePresent, Servers: down}, Wait, false},
		{"one has issued no token", Observed{Presence: PresencePresent, Servers: signs("kid-1", "")}, Wait, false},
		{"two sign with different keys", Observed{Presence: PresencePresent, Servers: signs("kid-1", "kid-2")}, Wait, true},
		{"one that leaves signs with another", Observed{Presence: PresencePresent, Servers: leaving}, AdoptKey, false},
		{"all sign with one", Observed{Presence: PresencePresent, Servers: signs("kid-1", "kid-1")}, AdoptKey, false},
	}
	for _, test := range tests {
		test.o.Adopted, test.o.Wanted = true, 1
		d := plan(test.o)
		if d.Action.Kind != test.want || d.Blocked != test.blocked {
			t.Errorf("%s: %v", test.name, described{d})
		}
		if err := wellFormed(test.o, d); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if d.Action.Kind == AdoptKey && (d.Action.KeyID != "kid-1" || d.Action.Version != 1) {
			t.Errorf("%s: %+v", test.name, d.Action)
		}
	}
}

// FuzzPlan holds Plan to what it owes to every caller, for any observation.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := checkPlan(data); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPlanOfAnything is the fuzz test for as long as every run of the tests can bear.
func TestPlanOfAnything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		data := make([]byte, 80)
		for i := range data {
			data[i] = byte(rng.IntN(256))
		}
		if err := checkPlan(data); err != nil {
			t.Fatal(err)
		}
	}
}

// checkPlan wants an answer that is the same each time, fits what was observed, and leaves it alone.
func checkPlan(data []byte) error {
	first, second := tape(data), tape(data)
	o, before := first.observed(), second.observed()
	d := plan(o)
	if err := wellFormed(o, d); err != nil {
		return fmt.Errorf("%v: %w, for %+v", described{d}, err, o)
	}
	if !reflect.DeepEqual(o, before) {
		return fmt.Errorf("%+v was changed to %+v", before, o)
	}
	if again := plan(o); !reflect.DeepEqual(d, again) {
		return fmt.Errorf("%v, and then %v, for %+v", described{d}, described{again}, o)
	}
	return nil
}

// tape reads an observation off the bytes of a fuzzer; at its end all is zero.
type tape []byte

// below returns a number from 0 to n-1.
func (t *tape) below(n int) int {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return int(b) % n
}

func (t *tape) is() bool { return t.below(2) == 1 }

// version is mostly one that a rotation from 1 to 2 or from 2 to 3 knows.
func (t *tape) version() int { return t.below(5) - t.below(16)/15 }

func (t *tape) versions() (vs []int) {
	switch t.below(8) {
	case 0:
		return nil
	case 1:
		return []int{1}
	case 2:
		return []int{2}
	case 3, 4, 5:
		return []int{1, 2}
	case 6:
		return []int{2, 3}
	}
	for range t.below(4) {
		vs = append(vs, t.version())
	}
	return vs
}

func (t *tape) text() string { return []string{"", "", "something"}[t.below(3)] }
func (t *tape) keys() Keys {
	return Keys{Verify: t.versions(), Sign: t.version(), External: t.is()}
}

func (t *tape) observed() Observed {
	o := Observed{
		Wanted: t.version(), External: t.is(), Stored: t.versions(), ControlPlaneWaiting: t.text(), Held: t.versions(),
		Presence:  []Presence{PresencePresent, PresencePresent, PresencePresent, PresenceUnknown, PresenceAbsent}[t.below(5)],
		Completed: t.is(), Adopted: t.below(4) == 0, KubeconfigDue: t.below(8) == 0,
	}
	if t.below(4) == 0 {
		o.Bootstrap = t.keys()
	}
	if t.is() {
		o.ForeignMayGo, o.BootstrapForeign = []string{"released"}, []string{"released"}[:t.below(2)]
	}
	slices.Sort(o.Stored)
	o.Stored = slices.Compact(o.Stored)
	for i := range t.below(4) {
		o.Servers = append(o.Servers, t.server(fmt.Sprintf("cp-%d", i)))
	}
	for i := range t.below(3) {
		m := ControllerManager{
			Name: managerName(i), Configured: t.version(), Running: t.version(), Ready: t.is(), Waiting: t.text(),
		}
		o.ControllerManagers = append(o.ControllerManagers, m)
	}
	if t.is() {
		p := Publication{Name: "the fleet", Accepts: t.versions(), Refuses: t.versions(), Waiting: t.text()}
		if t.is() {
			p.CertainAt = later
		}
		o.Publications = append(o.Publications, p)
	}
	o.Legacy = Legacy{Proven: t.version(), Final: t.version(), Waiting: t.text(), Blocked: t.is()}
	o.Nodes = Nodes{Oldest: t.version(), Converged: t.is(), Waiting: t.text(), Blocked: t.is()}
	return o
}

// server is often what its configuration makes it, so that more than the first check is reached.
func (t *tape) server(name string) Server {
	s := Server{Name: name, Configured: t.keys(), Ready: true}
	s.Running, s.Accepts, s.Signs = s.Configured, s.Configured.Verify, s.Configured.Sign
	s.Refuses = t.versions()
	if t.is() {
		s.Forgets = later
	}
	if t.below(8) == 0 {
		s.WatchesBack = later
	}
	if t.is() {
		s.Running, s.Ready, s.Waiting = t.keys(), t.is(), t.text()
	}
	if t.is() {
		s.Accepts, s.Signs = t.versions(), t.version()
	}
	if t.below(8) == 0 {
		s.Leaving = true
	}
	if t.below(8) == 0 {
		s.SignsForeign, s.Foreign = "foreign", []string{"foreign"}
	}
	if t.below(4) == 0 {
		s.Foreign = append(s.Foreign, "released")
	}
	return s
}
