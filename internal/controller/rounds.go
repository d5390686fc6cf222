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

// How long the parts of a round may take that depend on others. What a cluster's API servers, its webhooks or
// destinations outside it do not answer must not keep the controller from the cluster's processes, nor from other
// clusters.
const (
	// nodesPatience bounds what a round asks a user cluster about its nodes, or does to them.
	nodesPatience = 10 * time.Second
	// outsidePatience bounds all that one round asks of destinations outside the cluster, side by side.
	outsidePatience = 15 * time.Second
	// briefPatience bounds both while something of the control plane is missing: that comes first.
	briefPatience = 2 * time.Second
	// statusPatience bounds writing a status, which also tells that a round has timed out.
	statusPatience = 10 * time.Second

	// slowRound is how long a round may take without being slow.
	slowRound = 3 * time.Second
	// afterSlow is when a slow cluster asks again while slowPerWorker rounds for each worker are of slow ones.
	afterSlow = 2 * time.Second
	// slowPerWorker bounds how often clusters that do not answer are asked, together.
	slowPerWorker = 2
	// roundsAtOnce is how many clusters have a round at once. Most of these rounds wait, which costs a goroutine each.
	roundsAtOnce = 250
	// stuckAfter is after how many timeouts a round counts as one that never returns.
	stuckAfter = 3
)

// rounds are those that run now. Its zero value is ready for use.
type rounds struct {
	// workers has an element for each round that works. It is made once, by the first round.
	workers chan struct{}
	made    sync.Once

	mu    sync.Mutex
	began map[types.NamespacedName]time.Time
	// slow is how many of them are of clusters whose last round was slow.
	slow int
}

// work waits until fewer than most rounds work, and has the caller's round be one of them until rest is called.
func (r *rounds) work(most int) {
	r.made.Do(func() { r.workers = make(chan struct{}, most) })
	r.workers <- struct{}{}
}

func (r *rounds) rest() { <-r.workers }

// wait lets other rounds work while do waits for what may not answer. It is called in a round that works.
func (r *rounds) wait(do func()) {
	r.rest()
	defer func() { r.workers <- struct{}{} }()
	do()
}

// begin notes that a round begins. What it returns notes that it has ended.
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

// beginSlow reports whether a cluster whose last round was slow may have a round now, when no more than most of them
// may at once. If so, what it returns notes that the round has ended.
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

// Check fails when a round has not returned for several timeouts: nobody works on its cluster meanwhile. It is a check
// for /readyz and /healthz.
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
		// A round would take the status of before for what is written, and might leave it wrong until the next proof.
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
