// Package controlplanetest is the conformance suite of controlplane.Adapter.
//
// Run tests the contract. An adapter gives it a Fixture: how to make a cluster, and as many of the hooks of Cluster as
// it supports. The tests of a missing hook are skipped.
package controlplanetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// Fixture gives the suite access to an adapter.
type Fixture struct {
	// New makes a cluster without a control plane for one test. It must have at least two API servers.
	New func(t *testing.T) Cluster
	// Patience is how long a control plane may take for one change; zero means ten seconds.
	Patience time.Duration
	// External means that API servers can have signers.
	External bool
	// Fixed means that the cluster has the API servers of its spec as long as it exists: none is removed, and none appears
	// on its own. The suite then checks this instead of Remove and Join.
	Fixed bool
}

// Cluster is one cluster, and what the suite may do to it. Hooks from Break on may be nil.
type Cluster struct {
	// Open opens one more adapter of the cluster. It shares nothing with the others but the control plane.
	Open func(t *testing.T) controlplane.Adapter
	// Prove asks an API server which keys it has, as controlplane.Prover does.
	Prove func(context.Context, controlplane.Question) (controlplane.Proof, error)
	// Process identifies the process of an API server; empty while none runs.
	Process func(t *testing.T, server string) string
	// Kill ends the process of an API server, as a crash would.
	Kill func(t *testing.T, server string)

	// Break kills an API server and keeps it from starting until mend is called.
	Break func(t *testing.T, server string) (mend func())
	// Hide makes something unreadable that the adapter must know about the control plane, until show is called.
	Hide func(t *testing.T) (show func())
	// Fail makes the next call of Converge fail. It returns what must be done before a call can succeed.
	Fail func(t *testing.T, fault faults.Fault) (mend func())
	// Restore gives an API server an earlier state of its disk, and makes it run with the keys of that time.
	Restore func(t *testing.T, server string, keys controlplane.Keys, have []keystore.KeyPair)
	// Remove removes an API server permanently, with its machine.
	Remove func(t *testing.T, server string)
	// Join makes an API server appear on its own that runs with these keys.
	Join func(t *testing.T, keys controlplane.Keys) (server string)
}

// Run runs the suite. Each test has its own cluster. The tests run one after another.
func Run(t *testing.T, f Fixture) {
	if f.Patience == 0 {
		f.Patience = 10 * time.Second
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, fixture)
	}{
		{"Absent", testAbsent},
		{"HalfMade", testHalfMade},
		{"Rotation", testRotation},
		{"RotationWithSigners", testRotationWithSigners},
		{"TwoCallers", testTwoCallers},
		{"OneIsOut", testOneIsOut},
		{"Vanished", testVanished},
		{"Unseen", testUnseen},
		{"Failed", func(t *testing.T, f fixture) { testFailed(t, f, faults.Failed) }},
		{"FailedButPersisted", func(t *testing.T, f fixture) { testFailed(t, f, faults.FailedButPersisted) }},
		{"Removed", testRemoved},
		{"Newcomer", testNewcomer},
		{"Fixed", testFixed},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, fixture{
				Cluster: f.New(t), patience: f.Patience, external: f.External, fixed: f.Fixed,
				keys: []keystore.KeyPair{generate(t, 1, jwks.ES256), generate(t, 2, jwks.RS256)},
			})
		})
	}
}

// The keys of a rotation, in order.
var (
	first     = controlplane.Keys{Verify: []int{1}, Sign: 1}
	published = controlplane.Keys{Verify: []int{1, 2}, Sign: 1}
	switched  = controlplane.Keys{Verify: []int{1, 2}, Sign: 2}
	last      = controlplane.Keys{Verify: []int{2}, Sign: 2}
)

// testAbsent uses a cluster whose control plane was never created.
func testAbsent(t *testing.T, f fixture) {
	f.wantAbsent(t)
	for range 2 {
		if gone, err := f.Open(t).Delete(t.Context()); !gone || err != nil {
			t.Errorf("deleting what was never made: %v, %v", gone, err)
		}
	}
	f.wantAbsent(t)
}

// testHalfMade deletes a control plane whose creation has only begun.
func testHalfMade(t *testing.T, f fixture) {
	f.converge(t, controlplane.Target{Keys: first, ControllerManagerSign: 1}, f.keys[:1])
	f.delete(t)
}

// testRotation creates a control plane, rotates its keys with restarts, and deletes it.
func testRotation(t *testing.T, f fixture) {
	f.make(t, first)
	f.wantRepeatable(t, controlplane.Target{Keys: first, ControllerManagerSign: 1}, f.keys[:1])
	f.wantReachable(t)
	f.wantNoLedger(t)
	f.giveEach(t, published, 1)
	f.wantStale(t, controlplane.Target{Keys: first, ControllerManagerSign: 1})
	f.giveEach(t, switched, 1)
	f.settle(t, controlplane.Target{Keys: switched, ControllerManagerSign: 2}, f.keys)
	for _, server := range f.servers(t) {
		f.wantStale(t, controlplane.Target{Keys: published, Next: server, ControllerManagerSign: 2})
		f.wantStale(t, controlplane.Target{Keys: switched, Next: server, ControllerManagerSign: 1})
	}
	f.giveEach(t, last, 2)
	f.settle(t, controlplane.Target{Keys: last, ControllerManagerSign: 2}, f.keys[1:])
	f.wantStale(t, controlplane.Target{Keys: switched, Live: true, ControllerManagerSign: 2})
	f.wantProven(t, last)
	f.delete(t)
}

// testRotationWithSigners changes the keys of all API servers at once. None is taken down for it.
func testRotationWithSigners(t *testing.T, f fixture) {
	if !f.external {
		t.Skip("the API servers have no signers")
	}
	f.make(t, signed(first))
	running := f.processes(t)
	for _, step := range []struct {
		keys controlplane.Keys
		sign int
	}{{published, 1}, {switched, 1}, {switched, 2}, {last, 2}} {
		// Without permission, nothing may change.
		f.converge(t, controlplane.Target{Keys: signed(step.keys), ControllerManagerSign: step.sign}, f.keys)
		f.settle(t, controlplane.Target{Keys: signed(step.keys), Live: true, ControllerManagerSign: step.sign}, f.keys)
		f.wantProven(t, signed(step.keys))
	}
	f.wantLedgers(t)
	f.wantStale(t, controlplane.Target{Keys: signed(switched), Live: true, ControllerManagerSign: 2})
	f.wantProcesses(t, running)
}

// testTwoCallers lets two controllers act on one plan, each on its own API server. No two API servers may be down.
func testTwoCallers(t *testing.T, f fixture) {
	f.make(t, first)
	servers := f.servers(t)
	watch := f.watch(t)
	one, two := f.Open(t), f.Open(t)
	f.until(t, "both callers done", func() bool {
		for i, a := range []controlplane.Adapter{one, two} {
			target := controlplane.Target{Keys: published, Next: servers[i], ControllerManagerSign: 1}
			if err := a.Converge(t.Context(), target, f.keys); err != nil {
				t.Fatal(err)
			}
			watch.check()
		}
		return watch.state.has(servers[0], published) && watch.state.has(servers[1], published)
	})
}

// testOneIsOut uses an API server that does not come back. No other may be taken down meanwhile, except one that
// refuses tokens.
func testOneIsOut(t *testing.T, f fixture) {
	if f.Break == nil || f.Restore == nil {
		t.Skip("no API server can be kept out, or be given an earlier disk")
	}
	f.make(t, first)
	f.giveEach(t, published, 1)
	servers := f.servers(t)
	broken, other := servers[0], servers[1]
	mend := f.Break(t, broken)
	process := f.Process(t, other)
	f.until(t, "the adapter to see that one is out", func() bool { return !f.observe(t).ready(broken) })
	for range 5 {
		f.converge(t, controlplane.Target{Keys: switched, Next: other, ControllerManagerSign: 1}, f.keys)
		if is := f.Process(t, other); is != process {
			t.Fatalf("%s was taken out while %s is out", other, broken)
		}
	}
	// It comes back with keys from before version 2, and refuses what the others sign.
	f.Restore(t, other, first, f.keys)
	if s := f.observe(t); !s.runs(other, first) {
		t.Fatalf("%s was restored, and is observed as %+v", other, s.server(other))
	}
	f.until(t, "an API server that refuses tokens to be brought up", func() bool {
		f.converge(t, controlplane.Target{Keys: switched, Next: other, ControllerManagerSign: 1}, f.keys)
		return f.observe(t).runs(other, switched)
	})
	mend()
	f.giveEach(t, switched, 1)
}

// testVanished kills API servers. They must come back with their configured keys, not with those of the target.
func testVanished(t *testing.T, f fixture) {
	f.make(t, first)
	servers := f.servers(t)
	f.give(t, servers[0], published, 1)
	for _, server := range servers {
		f.Kill(t, server)
	}
	target := controlplane.Target{Keys: published, ControllerManagerSign: 1}
	f.until(t, "API servers to come back", func() bool {
		f.converge(t, target, f.keys)
		s := f.observe(t)
		return s.has(servers[0], published) && s.has(servers[1], first)
	})
}

// testUnseen hides something from the adapter, which must not report it as absent.
func testUnseen(t *testing.T, f fixture) {
	if f.Hide == nil {
		t.Skip("nothing can be hidden")
	}
	f.make(t, first)
	running := f.processes(t)
	show := f.Hide(t)
	f.wantUnknown(t)
	// A target is refused or does what it may. It must not stop or change what cannot be seen.
	_ = f.Open(t).Converge(t.Context(), controlplane.Target{Keys: first, ControllerManagerSign: 1}, f.keys)
	f.wantUnknown(t)
	show()
	f.settle(t, controlplane.Target{Keys: first, ControllerManagerSign: 1}, f.keys)
	f.wantProcesses(t, running)
}

// testFailed makes each change fail once. The next call must finish it.
func testFailed(t *testing.T, f fixture, fault faults.Fault) {
	if f.Fail == nil {
		t.Skip("no write can be made to fail")
	}
	fail := func(target controlplane.Target, keys []keystore.KeyPair) {
		mend := f.Fail(t, fault)
		if err := f.Open(t).Converge(t.Context(), target, keys); err == nil {
			t.Error("a write failed, and Converge returned no error")
		}
		mend()
	}
	fail(controlplane.Target{Keys: first, ControllerManagerSign: 1}, f.keys[:1])
	f.make(t, first)
	for _, server := range f.servers(t) {
		fail(controlplane.Target{Keys: published, Next: server, ControllerManagerSign: 1}, f.keys)
		f.give(t, server, published, 1)
	}
	f.wantProven(t, published)
}

// testRemoved removes an API server permanently in the middle of a change.
func testRemoved(t *testing.T, f fixture) {
	if f.Remove == nil {
		t.Skip("no API server can be removed")
	}
	f.make(t, first)
	gone := f.servers(t)[0]
	f.converge(t, controlplane.Target{Keys: published, Next: gone, ControllerManagerSign: 1}, f.keys)
	f.Remove(t, gone)
	f.until(t, "the API server to be listed no more", func() bool {
		f.converge(t, controlplane.Target{Keys: published, Next: gone, ControllerManagerSign: 1}, f.keys)
		return !f.observe(t).lists(gone)
	})
	f.giveEach(t, published, 1)
}

// testNewcomer makes an API server appear with the keys from before the switch.
func testNewcomer(t *testing.T, f fixture) {
	if f.Join == nil {
		t.Skip("no API server can appear on its own")
	}
	f.make(t, first)
	f.giveEach(t, published, 1)
	f.giveEach(t, switched, 1)
	name := f.Join(t, first)
	if s := f.observe(t); !s.lists(name) || !s.server(name).Configured.Equal(first) {
		t.Errorf("%s has joined with %v, and is reported as %+v", name, first, s.server(name))
	}
	f.give(t, name, switched, 1)
	f.wantProven(t, switched)
}

// testFixed makes one API server after another die and not come back: each must be listed before, meanwhile and after.
func testFixed(t *testing.T, f fixture) {
	if !f.fixed {
		t.Skip("API servers can come and go: see Removed and Newcomer")
	}
	if f.Remove != nil || f.Join != nil {
		t.Fatal("API servers that can be removed or appear are not fixed")
	}
	f.make(t, first)
	servers := f.servers(t)
	for _, server := range servers {
		mend := f.Break(t, server)
		f.converge(t, controlplane.Target{Keys: published, Next: server, ControllerManagerSign: 1}, f.keys)
		if now := f.servers(t); !slices.Equal(now, servers) {
			t.Errorf("while %s does not run, the API servers are %v, want %v", server, now, servers)
		}
		mend()
		f.give(t, server, published, 1)
	}
	if now := f.servers(t); !slices.Equal(now, servers) {
		t.Errorf("the API servers are %v, want %v", now, servers)
	}
}
