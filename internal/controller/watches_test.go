package controller_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// stopped is a world whose clock a test moves.
type stopped struct {
	*world
	now time.Time
}

func newStopped(t *testing.T) *stopped {
	w := &stopped{world: newWorld(t), now: time.Now()}
	w.restart()
	return w
}

func (w *stopped) restart() {
	w.world.restart()
	w.reconciler.Now = func() time.Time { return w.now }
}

func awaitsWatches(uc *v1alpha1.UserCluster) bool {
	return strings.HasPrefix(uc.Status.KSASigningKey.WaitingFor, "kubelets to watch Secrets again after the start of")
}

// wantAwaiting wants the legacy tokens to be left alone for so long, and to be re-signed then.
func (w *stopped) wantAwaiting(key client.ObjectKey, long time.Duration) {
	w.Helper()
	legacy := func() (tokens []int) {
		w.with(key, func(c *userCluster) { tokens = slices.Clone(c.tokens) })
		return tokens
	}
	before := legacy()
	resigned := func(*v1alpha1.UserCluster) bool { return !slices.Equal(legacy(), before) }
	w.until(key, awaitsWatches)
	w.now = w.now.Add(long - 2*time.Second)
	for range 3 {
		if uc := w.round(key); !awaitsWatches(uc) || resigned(uc) {
			w.Errorf("2 s before %s it waits for %q, with tokens %v", long, uc.Status.KSASigningKey.WaitingFor, legacy())
		}
	}
	w.now = w.now.Add(2 * time.Second)
	w.until(key, resigned, func(uc *v1alpha1.UserCluster) {
		if awaitsWatches(uc) {
			w.Errorf("after %s it waits for %q", long, uc.Status.KSASigningKey.WaitingFor)
		}
	})
}

// die ends the process of an API server.
func (w *stopped) die(key client.ObjectKey, server int) {
	w.with(key, func(c *userCluster) { c.servers[server].stop() })
}

// TestWatches re-signs no legacy token for a minute after an API server was started, which breaks the watches of
// kubelets.
func TestWatches(t *testing.T) {
	w := newStopped(t)
	blue := w.settled("blue", threeServers)
	w.now = w.now.Add(time.Hour)
	w.rotate(blue)
	w.wantAwaiting(blue, time.Minute)
	w.until(blue, isSettled)

	w.now = w.now.Add(time.Hour)
	w.rotate(blue)
	w.until(blue, awaitsWatches)
	w.now = w.now.Add(50 * time.Second)
	w.die(blue, 1)
	w.until(blue, func(uc *v1alpha1.UserCluster) bool { return !awaitsWatches(uc) })
	w.wantAwaiting(blue, time.Minute)
	w.until(blue, isSettled)

	w.now = w.now.Add(time.Hour)
	w.rotate(blue)
	w.until(blue, awaitsWatches)
	w.now = w.now.Add(50 * time.Second)
	w.restart() // the status tells since when it refreshes, in whole seconds
	w.wantAwaiting(blue, 10*time.Second)
	w.until(blue, isSettled)

	w.now = w.now.Add(time.Hour)
	w.rotate(blue)
	w.until(blue, awaitsWatches)
	w.now = w.now.Add(-time.Hour) // its clock is set back
	w.wantAwaiting(blue, time.Minute)
}

// TestWatchesWithSigners waits for no watches where no API server was started, and does where one was.
func TestWatchesWithSigners(t *testing.T) {
	w := newStopped(t)
	blue := w.settled("blue", threeServers, withSigners)
	retires := func() {
		t.Helper()
		w.until(blue, inStep("Retire"), func(uc *v1alpha1.UserCluster) {
			if awaitsWatches(uc) {
				t.Errorf("it waits for %q", uc.Status.KSASigningKey.WaitingFor)
			}
		})
		w.hurry()
		w.until(blue, isSettled)
	}
	w.rotate(blue)
	retires()

	w.restart()
	w.rotate(blue)
	retires()

	w.restart()
	w.until(blue, isSettled)
	w.die(blue, 2)
	w.until(blue, func(uc *v1alpha1.UserCluster) bool { return !isSettled(uc) })
	w.until(blue, isSettled)
	w.rotate(blue)
	w.wantAwaiting(blue, time.Minute)
	w.until(blue, inStep("Retire"))
	w.hurry()
	w.until(blue, isSettled)

	w.restart()
	w.change(blue, v1alpha1.KeySourceFiles)
	w.now = w.now.Add(time.Hour)
	w.change(blue, v1alpha1.KeySourceExternal)
	w.rotate(blue)
	w.wantAwaiting(blue, time.Minute)
}

// change changes where API servers get their keys.
func (w *stopped) change(key client.ObjectKey, source v1alpha1.KeySource) {
	w.Helper()
	uc := w.get(key)
	uc.Spec.KSASigningKey.Source = source
	if err := admin.Update(w.Context(), uc); err != nil {
		w.Fatal(err)
	}
	w.until(key, isSettled)
}
