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
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// How long an answer of a destination is used: believeGood if all stored keys are accepted, and believeBad otherwise.
const (
	believeGood = 10 * time.Second
	believeBad  = time.Second
)

// publication is one destination that the keys of a cluster are published to, and what was last observed of it.
type publication struct {
	publisher fleet.Publisher
	seen      fleet.Observation
	// err is why it could not be asked.
	err error
	// at is when it was asked, about the keys with these kids.
	at   time.Time
	kids []string
}

// believed reports whether the last answer is recent enough.
func (p publication) believed(keys []keystore.KeyPair, now time.Time) bool {
	patience := believeBad
	if p.err == nil && p.seen.Waiting == "" && len(p.seen.Accepts) == len(keys) {
		patience = believeGood
	}
	return now.Sub(p.at) < patience && slices.Equal(p.kids, kids(keys))
}

// observed converts the destination for the planner.
func (p publication) observed() rotation.Publication {
	o := rotation.Publication{
		Name: p.publisher.Name(), Accepts: p.seen.Accepts, Refuses: p.seen.Refuses, CertainAt: p.seen.CertainAt,
		Waiting: p.seen.Waiting,
	}
	if p.err != nil {
		o.Waiting = hint.Line(p.err)
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

// Publishers makes the destinations that the keys of clusters are published to, for verifiers outside of them.
type Publishers interface {
	// Of returns the destinations that the spec of a cluster names, always in the same order. It includes a destination
	// that cannot be used; calls of that fail.
	Of(context.Context, *v1alpha1.UserCluster) []fleet.Publisher
	// Former returns the destination of a Publication in the status that the spec no longer names; false if there is
	// nothing to remove from it.
	Former(uc *v1alpha1.UserCluster, name string) (fleet.Publisher, bool)
	// Forget drops connections and credentials of a cluster that is gone.
	Forget(types.NamespacedName)
}

// gatherPublications asks all destinations in parallel, once there are keys that could be published.
func (r *Reconciler) gatherPublications(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	if r.Publishers == nil {
		return
	}
	o.publications = r.remember(uc).recall(r.Publishers.Of(ctx, uc))
	o.former = former(uc, o.publications)
	now := r.now()
	each(ctx, o.publications, func(ctx context.Context, p *publication) {
		if len(o.keys) > 0 && !p.believed(o.keys, now) {
			p.ask(ctx, o.keys, now)
		}
	})
	r.remember(uc).setPublications(o.publications)
	for _, p := range o.publications {
		o.Publications = append(o.Publications, p.observed())
	}
}

func (p *publication) ask(ctx context.Context, keys []keystore.KeyPair, now time.Time) {
	p.seen, p.err = p.publisher.Observe(ctx, keys)
	p.at, p.kids = now, kids(keys)
}

// each calls do for all destinations in parallel, for at most outsidePatience.
func each(ctx context.Context, all []publication, do func(context.Context, *publication)) {
	ctx, cancel := context.WithTimeout(ctx, outsidePatience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { do(ctx, &all[i]) })
	}
	wg.Wait()
}

// publish makes exactly these keys the published ones at every destination. After a crash between two of them, the next
// plan publishes at both again, and the one that is up to date does not change.
func (r *Reconciler) publish(
	ctx context.Context, uc *v1alpha1.UserCluster, keys []keystore.KeyPair, versions []int, at []publication,
) error {
	r.remember(uc).setPublications(nil)
	each(ctx, at, func(ctx context.Context, p *publication) {
		if p.err = p.publisher.Publish(ctx, keys, versions); p.err != nil {
			p.err = fmt.Errorf("publishing at %s: %w", p.publisher.Name(), p.err)
		}
	})
	if len(at) == 0 {
		return errors.New("publishing keys: no destination is known")
	}
	return failures(at)
}

// unpublish removes the keys of a cluster from every destination. It does not wait for destinations that the spec no
// longer names, so that a person can remove one that cannot be reached. It returns in left which of these still have
// the keys.
func (r *Reconciler) unpublish(
	ctx context.Context, uc *v1alpha1.UserCluster,
) (left []v1alpha1.PublicationStatus, err error) {
	if r.Publishers == nil {
		return nil, nil
	}
	all := r.remember(uc).recall(r.Publishers.Of(ctx, uc))
	left = r.withdraw(ctx, uc, former(uc, all))
	each(ctx, all, func(ctx context.Context, p *publication) {
		if p.err = p.publisher.Remove(ctx); p.err != nil {
			p.err = fmt.Errorf("removing what is published at %s: %w", p.publisher.Name(), p.err)
		}
	})
	r.remember(uc).setPublications(nil)
	return left, failures(all)
}

func failures(all []publication) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// former returns the publications in the status that are none of these: the spec named them before.
func former(uc *v1alpha1.UserCluster, now []publication) []v1alpha1.PublicationStatus {
	return slices.DeleteFunc(slices.Clone(uc.Status.Publications), func(s v1alpha1.PublicationStatus) bool {
		return slices.ContainsFunc(now, func(p publication) bool { return p.publisher.Name() == s.Name })
	})
}

// withdraw removes the keys from destinations that the spec no longer names, and returns those that are left. Nothing
// waits for them; only the status lists them.
func (r *Reconciler) withdraw(
	ctx context.Context, uc *v1alpha1.UserCluster, from []v1alpha1.PublicationStatus,
) []v1alpha1.PublicationStatus {
	var all []publication
	for _, s := range from {
		if publisher, ok := r.Publishers.Former(uc, s.Name); ok {
			all = append(all, publication{publisher: publisher})
		}
	}
	each(ctx, all, func(ctx context.Context, p *publication) { p.err = p.publisher.Remove(ctx) })
	var left []v1alpha1.PublicationStatus
	for _, p := range all {
		if p.err == nil {
			r.Log.InfoContext(ctx, "removed what was published", "cluster", uc.Name, "destination", p.publisher.Name())
			continue
		}
		name := p.publisher.Name()
		r.Log.WarnContext(ctx, "removing what was published", "cluster", uc.Name, "destination", name, "error", p.err)
		left = append(left, v1alpha1.PublicationStatus{
			Name:       name,
			WaitingFor: "its documents to be removed, since the spec no longer names it: " + hint.Line(p.err),
		})
	}
	return left
}
