package controller_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func withSigners(uc *v1alpha1.UserCluster) {
	uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
}

// hurry advances the clock by half a second each time the controller reads it.
func (w *world) hurry() {
	ahead := time.Duration(0)
	w.reconciler.Now = func() time.Time {
		ahead += time.Second / 2
		return time.Now().Add(ahead)
	}
}

// starts counts how often each API server was started.
func (w *world) starts(key client.ObjectKey) (starts []int) {
	w.with(key, func(c *userCluster) {
		for _, s := range c.servers {
			starts = append(starts, s.starts)
		}
	})
	return starts
}

func (w *world) wantStarts(key client.ObjectKey, want ...int) {
	w.Helper()
	if got := w.starts(key); !slices.Equal(got, want) {
		w.Errorf("the API servers were started %v times, want %v", got, want)
	}
}

// TestRotateWithSigners rotates without a restart, and waits at the end until no API server remembers tokens of the old
// key.
func TestRotateWithSigners(t *testing.T) {
	w := newWorld(t)
	w.hurry()
	blue := w.settled("blue", threeServers, withSigners)
	var waits []string
	for version := 2; version <= 4; version++ {
		w.rotate(blue)
		w.until(blue, isSettled, func(uc *v1alpha1.UserCluster) {
			waits = append(waits, uc.Status.KSASigningKey.WaitingFor)
		})
		w.wantOnly(blue, version)
	}
	w.wantStarts(blue, 1, 1, 1)
	forgets := func(wait string) bool {
		return strings.Contains(wait, "to forget which tokens of key version 1 it has accepted, at the latest at ")
	}
	if !slices.ContainsFunc(waits, forgets) {
		t.Errorf("nobody waited until the old key was forgotten: %q", slices.Compact(waits))
	}
}

// TestAcceptedTokensAreForgotten stops the clock in Retire, and restarts the controller there: the old key stays
// stored.
func TestAcceptedTokensAreForgotten(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	setUp := func() {
		w.restart()
		w.reconciler.Now = func() time.Time { return now }
	}
	setUp()
	blue := w.settled("blue", withSigners)
	w.rotate(blue)
	forgetting := func(uc *v1alpha1.UserCluster) bool {
		return strings.Contains(uc.Status.KSASigningKey.WaitingFor,
			"API server cp-0 to forget which tokens of key version 1 it has accepted")
	}
	w.until(blue, forgetting)
	now = now.Add(10 * time.Second)
	setUp() // what it knew of the time is lost, and it waits from now on
	for range 5 {
		now = now.Add(2 * time.Second)
		if uc := w.round(blue); !forgetting(uc) || !slices.Equal(w.stored(blue), []int{1, 2}) {
			t.Errorf("it waits for %q with keys %v", uc.Status.KSASigningKey.WaitingFor, w.stored(blue))
		}
	}
	now = now.Add(4 * time.Second)
	w.until(blue, isSettled)
	w.wantOnly(blue, 2)
}

// TestChangeOfSource gives a cluster signers and takes them away again: one restart each.
func TestChangeOfSource(t *testing.T) {
	w := newWorld(t)
	w.hurry()
	blue := w.settled("blue", threeServers)
	change := func(source v1alpha1.KeySource) {
		uc := w.get(blue)
		uc.Spec.KSASigningKey.Source = source
		if err := admin.Update(t.Context(), uc); err != nil {
			t.Fatal(err)
		}
		w.until(blue, isSettled, func(uc *v1alpha1.UserCluster) {
			ready := 0
			for _, s := range uc.Status.APIServers {
				if s.Ready {
					ready++
				}
			}
			if ready < 2 {
				t.Errorf("%d of 3 API servers are ready", ready)
			}
			if uc.Status.KSASigningKey.Step != "" {
				t.Errorf("step %s of a change that rotates nothing", uc.Status.KSASigningKey.Step)
			}
		})
		w.wantOnly(blue, int(uc.Spec.KSASigningKey.Version))
	}
	change(v1alpha1.KeySourceExternal)
	w.wantStarts(blue, 2, 2, 2)
	w.rotate(blue)
	w.until(blue, isSettled)
	w.wantStarts(blue, 2, 2, 2)
	change(v1alpha1.KeySourceFiles)
	w.wantStarts(blue, 3, 3, 3)
	w.rotate(blue)
	w.until(blue, isSettled)
	w.wantStarts(blue, 6, 6, 6)
}

// TestBadSigners has one signer that is late, that says it has what it does not serve, or that serves now the old keys
// and now the new. The rotation stays in the step whose proof is missing, however long, and ends once the signer does
// what it should.
func TestBadSigners(t *testing.T) {
	for step, waiting := range map[string]string{
		"Publish": "API server cp-1 to accept a canary token of key version 2",
		"Switch":  "API server cp-1 to issue a token of key version 2",
		"Retire":  "API server cp-1 to refuse a canary token of key version 1",
	} {
		for name, flaps := range map[string]bool{"lies": false, "flaps": true} {
			t.Run(step+" "+name, func(t *testing.T) {
				w := newWorld(t)
				w.hurry()
				blue := w.settled("blue", threeServers, withSigners)
				w.rotate(blue)
				before := map[string]string{"Publish": "Generate", "Switch": "Publish", "Retire": "Refresh"}[step]
				w.until(blue, inStep(before))
				var accepts []string
				var signs string
				w.with(blue, func(c *userCluster) {
					s := &c.servers[1]
					s.deaf, accepts, signs = true, slices.Clone(s.accepts), s.signs
				})
				w.until(blue, func(uc *v1alpha1.UserCluster) bool { return uc.Status.KSASigningKey.WaitingFor == waiting })
				for i := range 40 {
					if flaps {
						w.with(blue, func(c *userCluster) {
							s := &c.servers[1]
							s.accepts, s.signs = accepts, signs
							if i%5 == 4 { // for one round, it has what is configured
								s.must(t, c)
							}
						})
					}
					uc := w.round(blue)
					if flaps && step == "Publish" && inStep("Refresh")(uc) {
						break // it has proven all that can be asked, and refuses afterwards what it had accepted
					}
					w.neverUnproven(uc, blue)
					if !flaps && !inStep(step)(uc) {
						t.Fatalf("in step %s while it waits for %s", uc.Status.KSASigningKey.Step, waiting)
					}
				}
				w.with(blue, func(c *userCluster) { c.servers[1].deaf = false; c.servers[1].must(t, c) })
				w.until(blue, isSettled)
				w.wantOnly(blue, 2)
				w.wantStarts(blue, 1, 1, 1)
			})
		}
	}
}

func (s *server) must(t *testing.T, c *userCluster) {
	if err := s.load(c.disk); err != nil {
		t.Error(err)
	}
}

// neverUnproven holds the keys that are stored to what the API servers truly do.
func (w *world) neverUnproven(uc *v1alpha1.UserCluster, key client.ObjectKey) {
	w.Helper()
	stored := w.stored(key)
	w.with(key, func(c *userCluster) {
		for _, s := range c.servers {
			for _, v := range c.tokens {
				if k, ok := c.disk[v]; !ok || !slices.Contains(s.accepts, k.KeyID) {
					w.Errorf("in step %s, %s refuses a legacy token of key version %d", uc.Status.KSASigningKey.Step, s.Name, v)
				}
			}
			if !slices.Contains(stored, 1) && len(s.accepts) > 1 {
				w.Errorf("key version 1 is deleted while %s accepts it", s.Name)
			}
		}
	})
}
