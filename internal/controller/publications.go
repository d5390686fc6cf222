package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// How long an answer of a place is believed: one that says that all stored keys are accepted there, and any other.
const (
	believeGood = 10 * time.Second
	believeBad  = time.Second
)

// publication is one place where the keys of a cluster are published, and what was last seen of it.
type publication struct {
	publisher fleet.Publisher
	seen      fleet.Observation
	// err says why it could not be asked.
	err error
	// at is when it was asked, about the keys of these kids.
	at   time.Time
	kids []string
}

// believed says that the place need not be asked again yet.
func (p publication) believed(keys []keystore.KeyPair, now time.Time) bool {
	patience := believeBad
	if p.err == nil && p.seen.Waiting == "" && len(p.seen.Accepts) == len(keys) {
		patience = believeGood
	}
	return now.Sub(p.at) < patience && slices.Equal(p.kids, kids(keys))
}

// observed is what the planner gets to know of the place.
func (p publication) observed() rotation.Publication {
	o := rotation.Publication{
		Name: p.publisher.Name(), Accepts: p.seen.Accepts, Refuses: p.seen.Refuses, SureAt: p.seen.SureAt, Waiting: p.seen.Waiting,
	}
	if p.err != nil {
		o.Waiting = p.err.Error()
	}
	return o
}

func kids(keys []keystore.KeyPair) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.KeyID)
	}
	return out
}

// gatherPublications asks all places at once, once there are keys that could be published.
func (r *Reconciler) gatherPublications(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	if r.Publishers == nil {
		return
	}
	publishers, err := r.Publishers(ctx, uc)
	if err != nil {
		o.Publications = []rotation.Publication{{Name: "the places where keys are published", Waiting: err.Error()}}
		return
	}
	o.publications = r.publications.recall(uc, publishers)
	now := r.now()
	var wg sync.WaitGroup
	for i := range o.publications {
		p := &o.publications[i]
		if len(o.keys) > 0 && !p.believed(o.keys, now) {
			wg.Go(func() { p.ask(ctx, o.keys, now) })
		}
	}
	wg.Wait()
	r.publications.remember(uc, o.publications)
	for _, p := range o.publications {
		o.Publications = append(o.Publications, p.observed())
	}
}

func (p *publication) ask(ctx context.Context, keys []keystore.KeyPair, now time.Time) {
	p.seen, p.err = p.publisher.Observe(ctx, keys)
	p.at, p.kids = now, kids(keys)
}

// publish makes these keys the only ones at every place. If we crash between two places, the next plan publishes at
// both again, and the one that has them already is left alone.
func (r *Reconciler) publish(ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair, at []publication) error {
	r.publications.forget(uc)
	var errs []error
	for _, p := range at {
		if err := p.publisher.Publish(ctx, keys); err != nil {
			errs = append(errs, fmt.Errorf("publishing at %s: %w", p.publisher.Name(), err))
		}
	}
	if len(at) == 0 {
		errs = append(errs, errors.New("publishing keys: no place is known"))
	}
	return errors.Join(errs...)
}

// unpublish takes the keys of a cluster away from every place.
func (r *Reconciler) unpublish(ctx context.Context, uc *v1alpha1.UserCluster) error {
	if r.Publishers == nil {
		return nil
	}
	publishers, err := r.Publishers(ctx, uc)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range publishers {
		if err := p.Remove(ctx); err != nil {
			errs = append(errs, fmt.Errorf("removing what is published at %s: %w", p.Name(), err))
		}
	}
	if len(errs) == 0 {
		r.publications.forget(uc)
	}
	return errors.Join(errs...)
}

// publicationMemory remembers what the places said lately.
type publicationMemory struct {
	mu sync.Mutex
	of map[types.UID][]publication
}

// recall returns the places of a cluster with what is remembered of each.
func (m *publicationMemory) recall(uc *v1alpha1.UserCluster, publishers []fleet.Publisher) []publication {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []publication
	for _, p := range publishers {
		of := publication{publisher: p}
		if i := slices.IndexFunc(m.of[uc.UID], func(q publication) bool { return q.publisher.Name() == p.Name() }); i >= 0 {
			of = m.of[uc.UID][i]
			of.publisher = p
		}
		all = append(all, of)
	}
	return all
}

func (m *publicationMemory) remember(uc *v1alpha1.UserCluster, all []publication) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[types.UID][]publication{}
	}
	m.of[uc.UID] = all
}

func (m *publicationMemory) forget(uc *v1alpha1.UserCluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, uc.UID)
}
