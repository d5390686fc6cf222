package nodestest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/nodes"
)

// MachinesFixture gives RunMachines access to machines. Every hook except Open may be nil.
type MachinesFixture struct {
	// Open makes another handle on the same machines. They share only the machines.
	Open func(t *testing.T) nodes.Machines
	// Refresher makes another handle on the tokens of the same machines.
	Refresher func(t *testing.T) nodes.Refresher
	// Pool is a pool that machines can be made of.
	Pool v1alpha1.NodePool
	// Stop stops a machine as a power cut does.
	Stop func(t *testing.T, name string)
	// Vanish removes a machine without the handles' knowledge.
	Vanish func(t *testing.T, name string)
	// Fail makes every Ensure fail until restore is called, before or after it did anything.
	Fail func(t *testing.T, fault faults.Fault) (restore func())
	// Blind makes the machines unobservable until restore is called.
	Blind func(t *testing.T) (restore func())
	// Patience is how long a machine may take to start, to stop and to be removed; zero means half a minute.
	Patience time.Duration
}

// RunMachines runs the suite of nodes.Machines, and that of nodes.Refresher if the fixture has one. The tests use
// different machines, and run one after another.
func RunMachines(t *testing.T, f MachinesFixture) {
	tests := []struct {
		name string
		test func(*testing.T, machines)
	}{
		{"Absent", testAbsent},
		{"Ensure", testEnsure},
		{"KeyVersionStays", testKeyVersionStays},
		{"Stop", testStop},
		{"Vanish", testVanish},
		{"Failed", func(t *testing.T, m machines) { testFailedEnsure(t, m, faults.Failed) }},
		{"FailedButPersisted", func(t *testing.T, m machines) { testFailedEnsure(t, m, faults.FailedButPersisted) }},
		{"Remove", testRemove},
		{"Unknown", testUnknown},
		{"Remember", testRemember},
		{"VersionsNeverGoDown", testVersionsNeverGoDown},
		{"RememberAbsent", testRememberAbsent},
		{"Tokens", testTokens},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := machines{MachinesFixture: f, Machines: f.Open(t), name: fmt.Sprintf("suite-%d", i)}
			if f.Refresher != nil {
				m.Refresher = f.Refresher(t)
			}
			test.test(t, m)
		})
	}
}

// machines are the machines of one test, which makes one with this name.
type machines struct {
	MachinesFixture
	nodes.Machines
	nodes.Refresher
	name string
}

// made makes the machine, of key version 1, and removes it when the test ends.
func (m machines) made(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { m.removed(t, m.name) })
	m.ensure(t, nodes.Machine{Name: m.name, Pool: m.Pool.Name, KeyVersion: 1})
}

// ensure ensures a machine until it runs.
func (m machines) ensure(t *testing.T, want nodes.Machine) {
	t.Helper()
	eventually(t, "machine "+want.Name+" to run", m.Patience, func() error {
		if err := m.Ensure(t.Context(), want, m.Pool); err != nil {
			return err
		}
		got := m.find(t, m.Machines, want.Name)
		return errorf(got.Running, "it is %+v", got)
	})
}

func (m machines) removed(t *testing.T, name string) {
	t.Helper()
	eventually(t, "machine "+name+" to be gone", m.Patience, func() error {
		gone, err := m.Machines.Remove(context.WithoutCancel(t.Context()), name)
		if err != nil {
			return err
		}
		return errorf(gone, "it is not gone")
	})
}

// find returns a machine as it is listed; zero if it is not.
func (m machines) find(t *testing.T, by nodes.Machines, name string) nodes.Machine {
	t.Helper()
	all, err := by.List(t.Context())
	must(t, "listing machines", err)
	i := slices.IndexFunc(all, func(m nodes.Machine) bool { return m.Name == name })
	if i < 0 {
		return nodes.Machine{}
	}
	return all[i]
}

// want checks the pool and key version of a machine, with a new handle.
func (m machines) want(t *testing.T, keyVersion int) nodes.Machine {
	t.Helper()
	got := m.find(t, m.Open(t), m.name)
	if got.Name != m.name || got.Pool != m.Pool.Name || got.KeyVersion != keyVersion {
		t.Fatalf("got %+v, want %s of pool %s and key version %d", got, m.name, m.Pool.Name, keyVersion)
	}
	return got
}

func testAbsent(t *testing.T, m machines) {
	if got := m.find(t, m.Machines, m.name); got.Name != "" {
		t.Errorf("before it was made: %+v", got)
	}
	for range 2 {
		if gone, err := m.Machines.Remove(t.Context(), m.name); !gone || err != nil {
			t.Errorf("removing a machine that never existed: %t, %v", gone, err)
		}
	}
}

func testEnsure(t *testing.T, m machines) {
	m.made(t)
	got := m.want(t, 1)
	if got.Refresh != (nodes.Refresh{}) || got.Refreshing() {
		t.Errorf("a new machine has a refresh: %+v", got.Refresh)
	}
	must(t, "ensuring it again", m.Ensure(t.Context(), got, m.Pool))
	if again := m.want(t, 1); !again.Running {
		t.Errorf("ensured again: %+v", again)
	}
}

// testKeyVersionStays ensures a machine with other key versions: a late caller must not make an old machine new.
func testKeyVersionStays(t *testing.T, m machines) {
	m.made(t)
	for _, other := range []int{2, 0} {
		late := nodes.Machine{Name: m.name, Pool: m.Pool.Name, KeyVersion: other}
		must(t, "ensuring it", m.Ensure(t.Context(), late, m.Pool))
		m.want(t, 1)
	}
}

func testStop(t *testing.T, m machines) {
	if m.Stop == nil {
		t.Skip("nobody can stop a machine")
	}
	m.made(t)
	m.Stop(t, m.name)
	eventually(t, "machine to stop", m.Patience, func() error {
		got := m.want(t, 1)
		return errorf(!got.Running, "it runs")
	})
	m.ensure(t, nodes.Machine{Name: m.name, Pool: m.Pool.Name, KeyVersion: 2})
	m.want(t, 1)
}

func testVanish(t *testing.T, m machines) {
	if m.Vanish == nil {
		t.Skip("nobody can take a machine away")
	}
	m.made(t)
	m.Vanish(t, m.name)
	if got := m.find(t, m.Machines, m.name); got.Name != "" {
		t.Errorf("it has vanished and is listed: %+v", got)
	}
	if gone, err := m.Machines.Remove(t.Context(), m.name); !gone || err != nil {
		t.Errorf("removing a machine that has vanished: %t, %v", gone, err)
	}
	m.ensure(t, nodes.Machine{Name: m.name, Pool: m.Pool.Name, KeyVersion: 2})
	m.want(t, 2)
}

// testFailedEnsure makes a machine with a call that fails, and then one that does not. If the first made one, the
// second must keep it.
func testFailedEnsure(t *testing.T, m machines, fault faults.Fault) {
	if m.Fail == nil {
		t.Skip("nobody can make Ensure fail")
	}
	t.Cleanup(func() { m.removed(t, m.name) })
	restore := m.Fail(t, fault)
	err := m.Ensure(t.Context(), nodes.Machine{Name: m.name, Pool: m.Pool.Name, KeyVersion: 1}, m.Pool)
	restore()
	left := m.find(t, m.Open(t), m.name)
	if err == nil || (left.Name != "") != (fault == faults.FailedButPersisted) {
		t.Fatalf("failed by %v, it left %+v", err, left)
	}
	m.ensure(t, nodes.Machine{Name: m.name, Pool: m.Pool.Name, KeyVersion: 2})
	want := 2
	if left.Name != "" {
		want = 1
	}
	m.want(t, want)
}

func testRemove(t *testing.T, m machines) {
	other := m
	other.name += "-other"
	m.made(t)
	other.made(t)
	m.removed(t, m.name)
	if got := m.find(t, m.Open(t), m.name); got.Name != "" {
		t.Errorf("removed, it is listed: %+v", got)
	}
	if got := other.want(t, 1); !got.Running {
		t.Errorf("another machine went with it: %+v", got)
	}
	// The name can be reused, and what was stored is gone.
	if m.Refresher != nil {
		must(t, "beginning a refresh", m.Remember(t.Context(), other.begun(t, 2)))
	}
	other.removed(t, other.name)
	other.ensure(t, nodes.Machine{Name: other.name, Pool: m.Pool.Name, KeyVersion: 3})
	if got := other.want(t, 3); got.Refresh != (nodes.Refresh{}) {
		t.Errorf("a new machine has the refresh of an old one: %+v", got.Refresh)
	}
}

// testUnknown makes the machines unobservable: they must not seem absent.
func testUnknown(t *testing.T, m machines) {
	if m.Blind == nil {
		t.Skip("nobody can hide the machines")
	}
	m.made(t)
	restore := m.Blind(t)
	defer restore()
	if all, err := m.List(t.Context()); err == nil {
		t.Errorf("machines that cannot be seen are listed as %+v", all)
	}
	restore()
	m.want(t, 1)
}

// begun returns the machine with a refresh to a key version that begins now.
func (m machines) begun(t *testing.T, keyVersion int) nodes.Machine {
	t.Helper()
	got := m.find(t, m.Machines, m.name)
	got.Refresh = nodes.Refresh{KeyVersion: keyVersion, Since: time.Now()}
	return got
}

// testRemember does a whole refresh. Each write is done twice.
func testRemember(t *testing.T, m machines) {
	if m.Refresher == nil {
		t.Skip("tokens cannot be replaced")
	}
	m.made(t)
	began := m.begun(t, 2)
	m.remember(t, began)
	late := began
	late.Refresh.Since = began.Refresh.Since.Add(time.Hour)
	m.remember(t, late)
	got := m.want(t, 1)
	if !got.Refreshing() || !sameRefresh(got.Refresh, began.Refresh) {
		t.Errorf("begun at %s: %+v", began.Refresh.Since, got.Refresh)
	}
	for _, proven := range []time.Time{began.Refresh.Since.Add(time.Minute), began.Refresh.Since.Add(time.Second)} {
		got.Refresh.Proven = proven
		m.remember(t, got)
		if got = m.want(t, 1); !got.Refresh.Proven.Equal(proven) || !got.Refresh.Since.Equal(began.Refresh.Since) {
			t.Errorf("proven at %s: %+v", proven, got.Refresh)
		}
	}
	got.KeyVersion = 2
	m.remember(t, got)
	if got = m.want(t, 2); got.Refreshing() {
		t.Errorf("done: %+v", got)
	}
	next := m.begun(t, 3)
	m.remember(t, next)
	if got = m.want(t, 2); !sameRefresh(got.Refresh, next.Refresh) {
		t.Errorf("the next one, begun at %s: %+v", next.Refresh.Since, got.Refresh)
	}
}

// sameRefresh compares the stored refreshes of two machines.
func sameRefresh(a, b nodes.Refresh) bool {
	return a.KeyVersion == b.KeyVersion && a.Since.Equal(b.Since) && a.Proven.Equal(b.Proven)
}

func (m machines) remember(t *testing.T, of nodes.Machine) {
	t.Helper()
	for range 2 {
		must(t, "remembering "+of.Name, m.Remember(t.Context(), of))
	}
}

// testVersionsNeverGoDown uses a late caller: its writes must be refused, and change nothing.
func testVersionsNeverGoDown(t *testing.T, m machines) {
	if m.Refresher == nil {
		t.Skip("tokens cannot be replaced")
	}
	m.made(t)
	older := m.want(t, 1)
	older.KeyVersion = 0
	m.refuses(t, "a key version below that of a machine without a refresh", older)
	m.remember(t, m.begun(t, 3))
	m.refuses(t, "an older refresh", m.begun(t, 2))
	done := m.begun(t, 3)
	done.KeyVersion = 3
	m.remember(t, done)
	older = done
	older.KeyVersion = 2
	m.refuses(t, "an older key version", older)
}

// refuses checks that a write is an error, and that nothing changed.
func (m machines) refuses(t *testing.T, what string, late nodes.Machine) {
	t.Helper()
	before := m.find(t, m.Machines, m.name)
	if err := m.Remember(t.Context(), late); err == nil {
		t.Errorf("%s is remembered", what)
	}
	after := m.find(t, m.Machines, m.name)
	if after.KeyVersion != before.KeyVersion || !sameRefresh(after.Refresh, before.Refresh) {
		t.Errorf("%s: it was %+v, is %+v", what, before, after)
	}
}

func testRememberAbsent(t *testing.T, m machines) {
	if m.Refresher == nil {
		t.Skip("tokens cannot be replaced")
	}
	absent := nodes.Machine{
		Name: m.name, Pool: m.Pool.Name, KeyVersion: 2, Refresh: nodes.Refresh{KeyVersion: 2, Since: time.Now()},
	}
	if err := m.Remember(t.Context(), absent); err == nil {
		t.Error("something is remembered with a machine that does not exist")
	}
	if got := m.find(t, m.Machines, m.name); got.Name != "" {
		t.Errorf("remembering it made it: %+v", got)
	}
}

func testTokens(t *testing.T, m machines) {
	if m.Refresher == nil {
		t.Skip("tokens cannot be replaced")
	}
	m.made(t)
	if got, err := m.Tokens(t.Context(), m.name, nil); len(got) != 0 || err != nil {
		t.Errorf("no files: %+v, %v", got, err)
	}
	files := []nodes.TokenFile{{Pod: "none", Volume: "a", Path: "token"}, {Pod: "none", Volume: "b", Path: "deep/token"}}
	var got []nodes.Token
	eventually(t, "files to be readable", m.Patience, func() (err error) { // the machine may be starting
		got, err = m.Tokens(t.Context(), m.name, files)
		return err
	})
	if missing := (nodes.Token{Missing: true}); !slices.Equal(got, []nodes.Token{missing, missing}) {
		t.Errorf("files that do not exist: %+v", got)
	}
	must(t, "restarting the kubelet without a refresh", m.RestartKubelet(t.Context(), m.name))
	if m.Stop == nil {
		return
	}
	m.Stop(t, m.name)
	eventually(t, "machine to stop", m.Patience, func() error { return errorf(!m.want(t, 1).Running, "it runs") })
	if got, err := m.Tokens(t.Context(), m.name, files); err == nil {
		t.Errorf("files of a machine that does not run: %+v", got)
	}
	must(t, "restarting the kubelet of a machine that does not run", m.RestartKubelet(t.Context(), m.name))
}
