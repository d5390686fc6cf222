// Package fleettest has the conformance suite of fleet.Publisher, and a destination for the tests of its callers.
//
// Run tests the contract. An adapter gives it a Fixture: how to make an empty destination, and as many of the hooks of
// Destination as it supports. The tests of a missing hook are skipped. Memory is a destination in memory.
package fleettest

import (
	"errors"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// Fixture gives the suite access to an adapter.
type Fixture struct {
	// New makes an empty destination for one test.
	New func(t *testing.T) Destination
	// Patience is how long a destination may take to show what was published; zero means ten seconds.
	Patience time.Duration
}

// Destination is one empty destination, and what the suite may do to it. Every hook except Publisher may be nil.
type Destination struct {
	// Publisher makes another Publisher of the destination. They share only the destination.
	Publisher func(t *testing.T) fleet.Publisher
	// Writes counts the writes that were requested so far.
	Writes func() int
	// Fail makes the next write fail.
	Fail func(t *testing.T, fault faults.Fault)
	// AddKey adds a published key without the publishers' knowledge.
	AddKey func(t *testing.T, key jwks.Key)
	// Other makes a Publisher of the same destination for another cluster.
	Other func(t *testing.T) fleet.Publisher
}

// Run runs the suite. Each test has its own destination.
func Run(t *testing.T, f Fixture) {
	if f.Patience == 0 {
		f.Patience = 10 * time.Second
	}
	tests := map[string]func(*testing.T, fixture){
		"Empty":              testEmpty,
		"Publish":            testPublish,
		"Rotate":             testRotate,
		"Repeat":             testRepeat,
		"ObserveWrites":      testObserveWrites,
		"NoMemory":           testNoMemory,
		"NoKeys":             testNoKeys,
		"ForeignKey":         testForeignKey,
		"Stale":              testStale,
		"OtherCluster":       testOtherCluster,
		"Failed":             func(t *testing.T, f fixture) { testFailed(t, f, faults.Failed) },
		"FailedButPersisted": func(t *testing.T, f fixture) { testFailed(t, f, faults.FailedButPersisted) },
		"Remove":             testRemove,
		"FailedRemove":       testFailedRemove,
		"Cancelled":          testCancelled,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			destination := f.New(t)
			test(t, fixture{
				Destination: destination, Publisher: destination.Publisher(t), patience: f.Patience,
				keys: []keystore.KeyPair{generate(t, 1, jwks.RS256), generate(t, 2, jwks.ES256)},
			})
		})
	}
}

func testEmpty(t *testing.T, f fixture) {
	if f.Name() == "" || f.Name() != f.Destination.Publisher(t).Name() {
		t.Errorf("one destination is named %q and %q", f.Name(), f.Destination.Publisher(t).Name())
	}
	f.wantNothing(t)
	if _, err := f.Observe(t.Context(), nil); err != nil {
		t.Errorf("observing no keys: %v", err)
	}
}

func testPublish(t *testing.T, f fixture) {
	f.publish(t, 1)
	f.want(t, 1)
}

// testRotate rotates the keys. They may have two algorithms.
func testRotate(t *testing.T, f fixture) {
	f.publish(t, 1)
	was := f.want(t, 1)
	for _, versions := range [][]int{{1, 2}, {2}} {
		f.publish(t, versions...)
		is := f.want(t, versions...)
		if is.PublishedAt.Before(was.PublishedAt) {
			t.Errorf("%v was published at %v, but what came before it at %v", versions, is.PublishedAt, was.PublishedAt)
		}
		was = is
	}
}

// testRepeat publishes what is already published: nothing may be written.
func testRepeat(t *testing.T, f fixture) {
	f.publish(t, 1, 2)
	was, writes := f.want(t, 1, 2), f.writes()
	f.publish(t, 1, 2)
	f.publish(t, 2, 1)
	if is := f.want(t, 1, 2); !is.PublishedAt.Equal(was.PublishedAt) || !is.CertainAt.Equal(was.CertainAt) {
		t.Errorf("published again, it is published at %v and certain at %v, want %v and %v", is.PublishedAt, is.CertainAt,
			was.PublishedAt, was.CertainAt)
	}
	if n := f.writes() - writes; n != 0 {
		t.Errorf("publishing what is published already wrote %d times", n)
	}
}

func testObserveWrites(t *testing.T, f fixture) {
	if f.Writes == nil {
		t.Skip("the destination does not count its writes")
	}
	f.wantNothing(t)
	if n := f.writes(); n != 0 {
		t.Errorf("observing nothing wrote %d times", n)
	}
	f.publish(t, 1)
	writes := f.writes()
	f.want(t, 1)
	if n := f.writes() - writes; n != 0 {
		t.Errorf("observing wrote %d times", n)
	}
}

// testNoMemory uses several publishers of one destination, as a restarted controller does.
func testNoMemory(t *testing.T, f fixture) {
	f.publish(t, 1)
	was := f.want(t, 1)
	other := f
	other.Publisher = f.Destination.Publisher(t)
	if is := other.want(t, 1); !is.PublishedAt.Equal(was.PublishedAt) {
		t.Errorf("published at %v for one publisher and %v for another", was.PublishedAt, is.PublishedAt)
	}
	other.publish(t, 2)
	f.want(t, 2)
	f.remove(t)
	other.wantNothing(t)
}

// testNoKeys publishes no keys, which can only be a mistake: it must not lock out every workload.
func testNoKeys(t *testing.T, f fixture) {
	f.publish(t, 1)
	f.want(t, 1)
	if err := f.Publish(t.Context(), f.keys, nil); err == nil {
		t.Error("publishing no keys: no error")
	}
	f.want(t, 1)
}

// testForeignKey adds a published key. Someone may need it: it must be reported, and stay.
func testForeignKey(t *testing.T, f fixture) {
	if f.AddKey == nil {
		t.Skip("the fixture cannot add a key to the destination")
	}
	f.publish(t, 1)
	f.want(t, 1)
	foreign := jwksKey(t, generate(t, 3, jwks.ES256))
	f.AddKey(t, foreign)
	f.eventually(t, "the foreign key reported", func(o fleet.Observation) bool { return o.Waiting != "" })
	writes := f.writes()
	f.refused(t, fleet.ErrForeign, 1)
	f.refused(t, fleet.ErrForeign, 1, 2)
	if n := f.writes() - writes; n != 0 {
		t.Errorf("refusing to replace a foreign key wrote %d times", n)
	}
	f.eventually(t, "the foreign key reported still", func(o fleet.Observation) bool { return o.Waiting != "" })
	f.remove(t) // the destination belongs to the cluster
	f.wantNothing(t)
}

// testStale uses a writer with an outdated view: it must remove no key of a later step, and restore none of an earlier
// one.
func testStale(t *testing.T, f fixture) {
	f.publish(t, 1, 2)
	f.want(t, 1, 2)
	f.refused(t, fleet.ErrStale, 1)
	f.want(t, 1, 2)
	f.publish(t, 2)
	f.want(t, 2)
	old := f
	old.keys = f.keys[:1] // it does not know the other
	old.refused(t, nil, 1)
	f.refused(t, fleet.ErrStale, 1, 2)
	f.want(t, 2)
}

// testOtherCluster uses a destination that another cluster already publishes to: nothing of it may be changed or
// removed.
func testOtherCluster(t *testing.T, f fixture) {
	if f.Other == nil {
		t.Skip("the destination cannot be another cluster's")
	}
	f.publish(t, 1)
	f.want(t, 1)
	other := f
	other.Publisher = f.Other(t)
	writes := f.writes()
	if seen, err := other.Observe(t.Context(), f.keys); !errors.Is(err, fleet.ErrForeign) {
		t.Errorf("another cluster observes %+v, %v", seen, err)
	}
	other.refused(t, fleet.ErrForeign, 1)
	other.refused(t, fleet.ErrForeign, 2)
	other.remove(t)
	if n := f.writes() - writes; n != 0 {
		t.Errorf("another cluster wrote %d times", n)
	}
	f.want(t, 1)
	f.remove(t)
	other.publish(t, 2) // it is free
	other.want(t, 2)
}

func jwksKey(t *testing.T, k keystore.KeyPair) jwks.Key {
	t.Helper()
	key, err := jwks.NewKey(k.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testFailed(t *testing.T, f fixture, fault faults.Fault) {
	if f.Fail == nil {
		t.Skip("the fixture cannot make a write fail")
	}
	for _, versions := range [][]int{{1}, {1, 2}, {2}} {
		f.Fail(t, fault)
		f.publish(t, versions...)
		f.want(t, versions...)
	}
}

func testRemove(t *testing.T, f fixture) {
	f.remove(t) // nothing is there yet
	f.publish(t, 1)
	f.want(t, 1)
	for range 2 { // the second time it is gone already
		f.remove(t)
		f.wantNothing(t)
	}
	f.publish(t, 2)
	f.want(t, 2)
}

func testFailedRemove(t *testing.T, f fixture) {
	if f.Fail == nil {
		t.Skip("the fixture cannot make a write fail")
	}
	for _, fault := range []faults.Fault{faults.Failed, faults.FailedButPersisted} {
		f.publish(t, 1)
		f.want(t, 1)
		f.Fail(t, fault)
		f.remove(t)
		f.wantNothing(t)
	}
}
