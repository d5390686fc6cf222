package controller_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/keystore"
)

// destinations are the destinations of every cluster, and former ones, which the specs no longer name.
type destinations struct {
	of     func(*v1alpha1.UserCluster) []fleet.Publisher
	former map[string]fleet.Publisher

	mu        sync.Mutex
	forgotten []types.NamespacedName
}

func (d *destinations) Of(_ context.Context, uc *v1alpha1.UserCluster) []fleet.Publisher {
	return d.of(uc)
}

func (d *destinations) Former(_ *v1alpha1.UserCluster, name string) (fleet.Publisher, bool) {
	p, ok := d.former[name]
	return p, ok
}

func (d *destinations) Forget(name types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgotten = append(d.forgotten, name)
}

// named is a destination in memory with a name of its own, which may fail and may wait for others.
type named struct {
	fleettest.Memory
	name string
	meet func(context.Context) error

	mu  sync.Mutex
	err error
	// removed counts the attempts to remove what is published.
	removed int
}

func (n *named) removals() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.removed
}

func (n *named) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *named) failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *named) Name() string { return n.name }

func (n *named) Observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	if err := n.failure(); err != nil {
		return fleet.Observation{}, err
	}
	return n.Memory.Observe(ctx, keys)
}

func (n *named) Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error {
	if n.meet != nil {
		if err := n.meet(ctx); err != nil {
			return err
		}
	}
	return n.Memory.Publish(ctx, keys, versions)
}

func (n *named) Remove(ctx context.Context) error {
	n.mu.Lock()
	n.removed++
	n.mu.Unlock()
	if err := n.failure(); err != nil {
		return err
	}
	return n.Memory.Remove(ctx)
}

// published reports whether anything is published there.
func (n *named) published(t *testing.T) bool {
	t.Helper()
	seen, err := n.Memory.Observe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return !seen.PublishedAt.IsZero()
}

// Destinations are published to side by side: each waits for the other, so one after the other would never end.
func TestPublishesSideBySide(t *testing.T) {
	w := newWorld(t)
	var both sync.WaitGroup
	both.Add(2)
	meet := func() func(context.Context) error {
		once := sync.OnceFunc(both.Done)
		return func(ctx context.Context) error {
			once()
			met := make(chan struct{})
			go func() { both.Wait(); close(met) }()
			select {
			case <-met:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	one, two := &named{name: "one", meet: meet()}, &named{name: "two", meet: meet()}
	w.reconciler.Publishers = &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher {
		return []fleet.Publisher{one, two}
	}}
	w.settled("blue")
	if !one.published(t) || !two.published(t) {
		t.Error("nothing is published")
	}
}

// A destination that the spec does not name any more loses its keys. While it cannot be reached the status remembers
// it; neither a rotation nor the end of the cluster waits for it.
func TestFormerDestination(t *testing.T) {
	w := newWorld(t)
	stays, goes := &named{name: "stays"}, &named{name: "goes"}
	all := []fleet.Publisher{stays, goes}
	d := &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher { return all },
		former: map[string]fleet.Publisher{"goes": goes}}
	ahead := time.Duration(0)
	w.reconciler.Publishers = d
	w.reconciler.Now = func() time.Time { ahead += time.Minute; return time.Now().Add(ahead) }
	blue := w.settled("blue")

	goes.fail(errors.New("no answer"))
	w.failing = true
	all = all[:1]
	w.rotate(blue)
	uc := w.until(blue, isSettled)
	w.wantOnly(blue, 2)
	if p := uc.Status.Publications; len(p) != 2 || p[1].Name != "goes" || !strings.Contains(p[1].WaitingFor, "no answer") {
		t.Errorf("the status tells publications %+v", p)
	}
	goes.fail(nil)
	uc = w.until(blue, func(uc *v1alpha1.UserCluster) bool { return len(uc.Status.Publications) == 1 })
	if goes.published(t) || !stays.published(t) || uc.Status.Publications[0].Name != "stays" {
		t.Errorf("published at the former destination: %v, at the other: %v", goes.published(t), stays.published(t))
	}

	stays.fail(errors.New("no answer"))
	d.former["stays"] = stays
	all = nil
	w.delete(blue)
	w.until(blue, isGone)
	if len(d.forgotten) == 0 || d.forgotten[0] != blue {
		t.Errorf("forgotten are %v, want %v", d.forgotten, blue)
	}
}

// What a destination says is cut and cleaned, so that the status can be written and shown.
func TestForeignTextInStatus(t *testing.T) {
	w := newWorld(t)
	d := &named{name: "memory"}
	w.reconciler.Publishers = &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher {
		return []fleet.Publisher{d}
	}}
	ahead := time.Duration(0)
	w.reconciler.Now = func() time.Time { ahead += time.Minute; return time.Now().Add(ahead) }
	blue := w.settled("blue")
	d.fail(errors.New("go \x1b[2J away \u202e " + strings.Repeat("x", 40_000)))
	w.failing = true
	uc := w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return strings.Contains(uc.Status.KSASigningKey.WaitingFor, "away")
	})
	for what, text := range map[string]string{
		"waitingFor":  uc.Status.KSASigningKey.WaitingFor,
		"condition":   meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady).Message,
		"publication": uc.Status.Publications[0].WaitingFor,
	} {
		if !strings.Contains(text, "go  [2J away") || strings.ContainsAny(text, "\x1b\u202e") ||
			utf8.RuneCountInString(text) > 4097 {
			t.Errorf("%s has %d characters: %.100q", what, utf8.RuneCountInString(text), text)
		}
	}
	d.fail(nil)
	w.until(blue, isSettled)
}
