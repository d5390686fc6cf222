package controller

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Limits of the parts of a round that depend on others. API servers of a cluster, its webhooks or destinations outside
// it that do not answer must keep the controller neither from the cluster's processes nor from other clusters.
const (
	// nodesPatience limits the requests of a round to a user cluster about its nodes.
	nodesPatience = 10 * time.Second
	// outsidePatience limits all requests of one round to destinations outside the cluster, in parallel.
	outsidePatience = 15 * time.Second
	// briefPatience limits both while a part of the control plane is missing, which has priority.
	briefPatience = 2 * time.Second
	// statusPatience limits writing a status, which also reports that a round has timed out.
	statusPatience = 10 * time.Second

	// slowRound is how long a round may take before it counts as slow.
	slowRound = 3 * time.Second
	// afterSlow is when a slow cluster tries again while as many slow rounds run as slowPerWorker allows.
	afterSlow = 2 * time.Second
	// slowPerWorker is how many rounds per worker may be of slow clusters.
	slowPerWorker = 2
	// roundsAtOnce is how many clusters may have a round at once. Most of these rounds wait, at the cost of a goroutine
	// each.
	roundsAtOnce = 250
	// stuckAfter is after how many timeouts a round counts as hanging.
	stuckAfter = 3
)

// rounds are the rounds that run now. The zero value is ready for use.
type rounds struct {
	// workers has an element for each round that works. The first round makes it.
	workers chan struct{}
	made    sync.Once

	mu    sync.Mutex
	began map[types.NamespacedName]time.Time
	// slow is how many of them are of clusters whose last round was slow.
	slow int
}

// work waits until fewer than most rounds work, and counts the caller's round as working until rest is called.
func (r *rounds) work(most int) {
	r.made.Do(func() { r.workers = make(chan struct{}, most) })
	r.workers <- struct{}{}
}

func (r *rounds) rest() { <-r.workers }

// wait lets other rounds work while do waits for something that may not answer. It is called in a round that works.
func (r *rounds) wait(do func()) {
	r.rest()
	defer func() { r.workers <- struct{}{} }()
	do()
}

// begin records that a round begins. The function that it returns records the end.
func (r *rounds) begin(cluster types.NamespacedName, now time.Time) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.began == nil {
		r.began = map[types.NamespacedName]time.Time{}
	}
	r.began[cluster] = now
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.began, cluster)
	}
}

// beginSlow reports whether a cluster whose last round was slow may have a round now, if at most most of them may at
// once. If so, the function that it returns records the end of the round.
func (r *rounds) beginSlow(most int) (end func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slow >= most {
		return nil, false
	}
	r.slow++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.slow--
	}, true
}

// Check fails if a round has not returned for several timeouts, since nobody works on its cluster meanwhile. It is a
// check for /readyz and /healthz.
func (r *Reconciler) Check(*http.Request) error {
	longest := stuckAfter * r.Options.withDefaults().RoundTimeout
	now := r.now()
	r.rounds.mu.Lock()
	defer r.rounds.mu.Unlock()
	for cluster, began := range r.rounds.began {
		if took := now.Sub(began); took > longest {
			return fmt.Errorf("the round of UserCluster %s began %s ago and does not return", cluster, took.Round(time.Second))
		}
	}
	return nil
}

// Reconcile does one round for one UserCluster.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	workers := r.Options.withDefaults().Workers
	r.rounds.work(workers)
	defer r.rounds.rest()
	began := r.now()
	defer r.rounds.begin(req.NamespacedName, began)()
	uc, err := r.read(ctx, req.NamespacedName)
	if uc == nil {
		return ctrl.Result{}, err
	}
	seen := r.remember(uc)
	if seen.isStale(uc) {
		// A round would take the old status for the written one, and might leave it wrong until the next proof.
		return ctrl.Result{RequeueAfter: afterProgress}, nil
	}
	if seen.isSlow() {
		end, ok := r.rounds.beginSlow(slowPerWorker * workers)
		if !ok {
			return ctrl.Result{RequeueAfter: afterSlow}, nil
		}
		defer end()
	}
	result, err := r.round(ctx, uc)
	seen.setSlow(r.now().Sub(began) > slowRound)
	if _, remembered := r.memory.named(req.NamespacedName); remembered { // else it was deleted in this round
		countRound(req.NamespacedName, err, r.now())
	}
	return result, err
}
