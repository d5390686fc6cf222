package controller_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
)

// forgetting notes which clusters were forgotten, by UID.
type forgetting struct {
	legacyTokens
	mu           sync.Mutex
	tokens, rest []types.UID
}

func (f *forgetting) Forget(cluster types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens = append(f.tokens, cluster)
}

func (f *forgetting) forgotten(c keystore.Cluster) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest = append(f.rest, types.UID(c.UID))
}

// TestGoneIsForgotten wants a cluster to be forgotten by everyone, also if the controller had no part in its end.
func TestGoneIsForgotten(t *testing.T) {
	w := newWorld(t)
	f := &forgetting{legacyTokens: legacyTokens{w.site}}
	d := &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher { return nil }}
	w.reconciler.Tokens, w.reconciler.Forgotten, w.reconciler.Publishers = f, f.forgotten, d
	wantForgotten := func(how string, cluster types.UID) {
		t.Helper()
		if !slices.Contains(f.tokens, cluster) || !slices.Contains(f.rest, cluster) || len(d.forgotten) == 0 {
			t.Errorf("%s: of %s, forgotten are tokens of %s, destinations of %v and the rest of %s",
				how, cluster, f.tokens, d.forgotten, f.rest)
		}
		f.tokens, f.rest, d.forgotten = nil, nil, nil
	}

	blue := w.settled("blue")
	uid := w.get(blue).UID
	w.takeAway(blue)
	if _, err := w.reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: blue}); err != nil {
		t.Fatal(err)
	}
	wantForgotten("its finalizer was taken away", uid)
	if m := w.metric("keyturn_", blue); len(m) > 0 {
		t.Errorf("metrics %v are left", m)
	}

	green := w.settled("green")
	uid = w.get(green).UID
	w.takeAway(green)
	w.create("green")
	w.round(green)
	wantForgotten("another has its name", uid)

	w.delete(green)
	uid = w.get(green).UID
	w.until(green, isGone)
	wantForgotten("it was deleted", uid)
}

// TestFormerDestinationIsLeftAlone wants publishing not to bring forward the next attempt at a former destination, and
// a deletion not to wait for it: it tries at once, and tells what is left.
func TestFormerDestinationIsLeftAlone(t *testing.T) {
	for name, failure := range map[string]error{"in reach": nil, "out of reach": errors.New("no answer")} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			stays, goes := &named{name: "stays"}, &named{name: "goes"}
			all := []fleet.Publisher{stays, goes}
			w.reconciler.Publishers = &destinations{
				of:     func(*v1alpha1.UserCluster) []fleet.Publisher { return all },
				former: map[string]fleet.Publisher{"goes": goes},
			}
			blue := w.settled("blue", withoutNodes) // with nodes, it would wait for time to pass
			later := time.Now().Add(time.Minute)
			w.reconciler.Now = func() time.Time { return later }
			goes.fail(errors.New("no answer"))
			all = all[:1]
			w.rotate(blue)
			w.until(blue, isSettled)
			if n := goes.removals(); n != 1 {
				t.Errorf("the former destination was tried %d times at one moment", n)
			}
			goes.fail(failure)
			w.delete(blue)
			w.until(blue, isGone)
			if goes.published(t) != (failure != nil) {
				t.Errorf("published at the former destination: %v", goes.published(t))
			}
			left := func(e string) bool { return strings.Contains(e, "PublishedKeysLeft") && strings.Contains(e, "goes") }
			if told := w.events(blue); slices.ContainsFunc(told, left) != (failure != nil) {
				t.Errorf("events:\n%s", strings.Join(told, "\n"))
			}
		})
	}
}

func withoutNodes(uc *v1alpha1.UserCluster) { uc.Spec.Infrastructure.Local.NodePools = nil }

// TestStartOfTheSecondRotation wants the second of two rotations in a row to have a start of its own.
func TestStartOfTheSecondRotation(t *testing.T) {
	w := newWorld(t)
	ahead := time.Duration(0)
	w.reconciler.Now = func() time.Time { ahead += time.Second; return time.Now().Add(ahead) }
	blue := w.settled("blue")
	w.rotate(blue)
	first := w.until(blue, inStep("Refresh")).Status.KSASigningKey
	w.annotate(blue, v1alpha1.AnnotationBreakGlass, "test")
	w.rotate(blue)
	between := w.until(blue, inStep("Retire")).Status.KSASigningKey
	if !between.StartedAt.Equal(first.StartedAt) {
		t.Errorf("started %v, and later, in the same rotation, %v", first.StartedAt, between.StartedAt)
	}
	second := w.until(blue, inStep("Generate")).Status.KSASigningKey
	uc := w.until(blue, isSettled)
	w.wantOnly(blue, 3)
	k := uc.Status.KSASigningKey
	if !second.StartedAt.After(between.StepSince.Time) || !k.StartedAt.Equal(second.StartedAt) ||
		k.CompletedAt.Before(k.StartedAt) {
		t.Errorf("started %v, retired the first key %v, started again %v, now %v, completed %v",
			first.StartedAt, between.StepSince, second.StartedAt, k.StartedAt, k.CompletedAt)
	}
}

// TestUnseen wants what was not seen in a round to stay in the status as it was.
func TestUnseen(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	before := w.get(blue).Status
	w.with(blue, func(c *userCluster) { c.servers[0].broken = true; c.servers[0].stop() })
	for range 3 {
		uc := w.round(blue)
		ready := condition(uc, v1alpha1.ConditionReady)
		if !slices.Equal(uc.Status.NodePools, before.NodePools) || ready.Status != metav1.ConditionFalse {
			t.Errorf("while no API server answers, node pools are %+v, want %+v", uc.Status.NodePools, before.NodePools)
		}
	}
	w.with(blue, func(c *userCluster) { c.servers[0].broken = false })
	w.until(blue, isSettled)

	w.with(blue, func(c *userCluster) { c.vague = true })
	uc := w.round(blue)
	w.wantCondition(uc, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNotObserved,
		"The cluster cannot be observed completely: waiting for all API servers of the control plane to be seen")
	if k := uc.Status.KSASigningKey; k.TokenVersion != 1 || !slices.Equal(uc.Status.NodePools, before.NodePools) {
		t.Errorf("the status forgot what was known: %+v", uc.Status)
	}
	w.with(blue, func(c *userCluster) { c.vague = false })
	w.until(blue, isSettled)
}
