package rollout

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files again")

// TestTimelines records whole rollouts, pass by pass. All that can happen happens between two passes.
func TestTimelines(t *testing.T) {
	tests := map[string]func() *world{
		"create":         func() *world { return newWorld(1, pool("a", 2, 1)) },
		"replace":        func() *world { return newWorld(2, pool("a", 2, 1)).settle("a", 1, 2) },
		"replace-surge2": func() *world { return newWorld(2, pool("a", 3, 2)).settle("a", 1, 3) },
		"scale-up":       func() *world { return newWorld(1, pool("a", 3, 1)).settle("a", 1, 1) },
		"scale-down":     func() *world { return newWorld(1, pool("a", 1, 1)).settle("a", 1, 3) },
		"remove-pool":    func() *world { return newWorld(1, pool("a", 1, 1)).settle("a", 1, 1).settle("b", 1, 2) },
		"in-place": func() *world {
			return newWorld(2, pool("a", 2, 1)).settle("a", 1, 2).keeping(v1alpha1.NodeRefreshInPlace, 2*time.Minute)
		},
		"in-place-scaled": func() *world {
			return newWorld(2, pool("a", 3, 1), pool("b", 1, 1)).settle("a", 1, 1).settle("b", 1, 2).keeping(
				v1alpha1.NodeRefreshInPlace, 2*time.Minute,
			)
		},
		"wait": func() *world {
			return newWorld(2, pool("a", 2, 1)).settle("a", 1, 2).keeping(v1alpha1.NodeRefreshWait, 2*time.Minute)
		},
		"replace-with-dead-node": func() *world {
			w := newWorld(2, pool("a", 2, 1)).settle("a", 1, 2)
			w.nodes["a-01"].Running = false
			return w
		},
	}
	for name, start := range tests {
		t.Run(name, func(t *testing.T) {
			compare(t, filepath.Join("testdata", name+".golden"), timeline(start()))
		})
	}
}

// clock is the time, where it matters.
func (w *world) clock() string {
	if !w.policy.How.KeepsNodes() {
		return ""
	}
	return " at " + w.now.Format(time.TimeOnly)
}

func timeline(w *world) string {
	var b strings.Builder
	for pass := 1; pass <= 40; pass++ {
		fmt.Fprintf(&b, "pass %d%s\n", pass, w.clock())
		for _, name := range w.names() {
			fmt.Fprintf(&b, "    %s\n", w.nodes[name])
		}
		chains := w.decide()
		for _, c := range chains {
			for _, a := range c {
				fmt.Fprintf(&b, "  > %s\n", a.text)
				w.apply(a)
			}
		}
		events := w.events()
		for _, happen := range events {
			happen()
		}
		if len(chains)+len(events) == 0 {
			break
		}
	}
	fmt.Fprintf(&b, "left: %q, violated: %q\n", w.unfinished(), w.violated)
	return b.String()
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it again):\n%s", file, diff)
	}
}

const (
	seeds = 100
	// enough is how many things may happen before a run counts as one that does not end.
	enough = 5000
)

// TestReplaceInRandomOrder replaces healthy nodes while anything happens in any order and the executor
// crashes between any two actions. The pool must serve with all its replicas throughout.
func TestReplaceInRandomOrder(t *testing.T) {
	for seed := range uint64(seeds) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		replicas, surge := 1+rnd.IntN(4), 1+rnd.IntN(3)
		w := newWorld(2, pool("a", int32(replicas), int32(surge))).settle("a", 1, replicas)
		runRandom(t, seed, rnd, w, func() {}, func() {
			if n := w.serving("a"); n < replicas {
				w.violate("only %d of %d nodes serve", n, replicas)
			}
			if n := w.machines("a"); n > replicas+surge {
				w.violate("%d machines, of at most %d", n, replicas+surge)
			}
		})
	}
}

// TestFaultsInRandomOrder changes pools and key version, kills machines, loses Node objects and makes nodes unready
// meanwhile. The pools must still end as wanted, without a create too many and without a Node object
// deleted under pods.
func TestFaultsInRandomOrder(t *testing.T) {
	for seed := range uint64(seeds) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(2, pool("a", 2, 1), pool("b", 1, 2)).settle("a", 1, 2).settle("b", 1, 2)
		changes, faults := 5, 20
		some := func(left *int, do func(*rand.Rand, *world)) func() {
			return func() {
				if *left > 0 && rnd.IntN(4) == 0 {
					*left--
					do(rnd, w)
				}
			}
		}
		runRandom(t, seed, rnd, w, some(&changes, change), some(&faults, fault))
	}
}

// TestRefreshInRandomOrder keeps nodes while anything happens in any order and the executor crashes between any two
// actions, pools change their size and machines break.
func TestRefreshInRandomOrder(t *testing.T) {
	for _, how := range []v1alpha1.NodeRefresh{v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait} {
		for seed := range uint64(seeds) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			w := newWorld(2, pool("a", 3, 1)).settle("a", 1, 3).keeping(how, time.Duration(rnd.IntN(10))*time.Minute)
			before := w.names()
			if seed%2 == 0 {
				runRandom(t, seed, rnd, w, func() {}, func() {})
				if after := w.names(); !slices.Equal(after, before) {
					t.Errorf("seed %d: nodes were %v, are %v", seed, before, after)
				}
				continue
			}
			changes, faults := 2, 10
			runRandom(t, seed, rnd, w, func() {
				if changes > 0 && rnd.IntN(4) == 0 {
					changes--
					w.pools[0].Replicas = int32(rnd.IntN(5))
				}
			}, func() {
				if faults > 0 && rnd.IntN(4) == 0 {
					faults--
					fault(rnd, w)
				}
			})
		}
	}
}

// runRandom alternates, at random, between things that happen on their own and passes of a crashing executor. It calls
// before before each pass, and after after each thing.
func runRandom(t *testing.T, seed uint64, rnd *rand.Rand, w *world, before, after func()) {
	t.Helper()
	var log []string
	for range enough {
		before()
		chains := w.decide()
		if len(chains)+len(w.events()) == 0 {
			break
		}
		for _, i := range rnd.Perm(len(chains)) {
			for _, a := range chains[i][:rnd.IntN(len(chains[i])+1)] {
				log = append(log, a.text)
				w.apply(a)
				after()
				happen(rnd, w)
				after()
			}
		}
		happen(rnd, w)
		after()
	}
	if left := w.unfinished(); left != "" {
		w.violate("never finished: %s", left)
	}
	if len(w.violated) > 0 {
		t.Fatalf("seed %d: %s\nactions:\n%s", seed, strings.Join(w.violated, "\n"), strings.Join(log, "\n"))
	}
}

// happen lets one of the things happen that can, or none.
func happen(rnd *rand.Rand, w *world) {
	if events := w.events(); len(events) > 0 && rnd.IntN(3) > 0 {
		events[rnd.IntN(len(events))]()
	}
}

// change changes what is wanted.
func change(rnd *rand.Rand, w *world) {
	switch rnd.IntN(3) {
	case 0:
		w.pools[0].Replicas = int32(rnd.IntN(4))
	case 1:
		w.pools = w.pools[:1]
	case 2:
		w.want = 3
	}
}

// fault breaks a machine or its Node object.
func fault(rnd *rand.Rand, w *world) {
	names := w.names()
	if len(names) == 0 {
		return
	}
	n := w.nodes[names[rnd.IntN(len(names))]]
	switch rnd.IntN(4) {
	case 0:
		n.Running, n.starting = false, false
	case 1:
		n.Ready = false
	case 2:
		w.unregister(n)
	case 3: // the machine is gone, and a Node object without one is an orphan
		n.Machine, n.Running, n.removing, n.starting = false, false, false, false
		n.Leaving, n.Ready = n.Registered, n.Ready && n.Registered
		w.bury(n)
	}
}
