package legacytoken

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// walk goes once over all Secrets. One goroutine reads and feeds, workers write. What is left when a pass ends stays
// for the next.
type walk struct {
	client   kubernetes.Interface
	target   Target
	workers  int
	pageSize int64
	budget   time.Duration
	guard    guard
	// settled means that no pod is left to be notified from before this walk.
	settled bool

	secrets  *pages[corev1.Secret]
	accounts *column[types.UID]
	uses     *column[use]
	todo     []corev1.Secret // read and not fed to the workers

	mu         sync.Mutex // guards what follows
	result     Result
	unfinished []corev1.Secret // given back by workers when ctx ended
	unnotified bool            // a pod could not be notified
	history    *history
	troubled   bool // a write failed in this pass for a reason that may pass
}

func newWalk(r *Refresher, target Target) *walk {
	w := &walk{
		client:   r.Client,
		target:   target,
		workers:  r.workers(),
		pageSize: r.pageSize(),
		budget:   r.Budget,
		guard:    guard{ask: r.Guard},
		settled:  r.settled == target.KeyID,
		history:  &r.history,
	}
	w.secrets = newSecrets(w.client, w.pageSize)
	w.surround()
	return w
}

// surround makes ServiceAccounts and pods be read from the start.
func (w *walk) surround() {
	w.accounts = newAccounts(w.client, w.pageSize)
	w.uses = newUses(w.client, w.pageSize)
}

// task is a Secret that needs a worker, with the data that it needs.
type task struct {
	secret *corev1.Secret
	// accounts are the ServiceAccounts of its namespace; nil if only pods must be notified.
	accounts map[string][]types.UID
	uses     []use
}

// run continues until the walk is complete or its budget is used up.
func (w *walk) run(ctx context.Context) error {
	stop := make(<-chan time.Time) // never
	if w.budget > 0 {
		timer := time.NewTimer(w.budget)
		defer timer.Stop()
		stop = timer.C
	}
	tasks := make(chan task)
	var workers sync.WaitGroup
	for range w.workers {
		workers.Go(func() {
			for t := range tasks {
				w.work(ctx, t)
			}
		})
	}
	err := w.feed(ctx, stop, tasks)
	close(tasks)
	workers.Wait()
	w.settle()
	return errors.Join(err, ctx.Err())
}

// settle stops all background work, and keeps what is unfinished for the next pass.
func (w *walk) settle() {
	w.secrets.settle()
	w.accounts.pages.settle()
	w.uses.pages.settle()
	if len(w.unfinished) > 0 {
		w.todo = append(w.unfinished, w.todo...)
		w.unfinished = nil
		w.surround() // they may have been read past these Secrets
	}
}

func (w *walk) complete() bool { return w.secrets.end() && len(w.todo) == 0 }

// idle reports whether nothing was written, and no pod is left to be notified.
func (w *walk) idle() bool { return w.result.Resigned == 0 && w.result.Notified == 0 && !w.unnotified }

// feed gives tasks to the workers, in the order of the list.
func (w *walk) feed(ctx context.Context, stop <-chan time.Time, tasks chan<- task) error {
	for !w.complete() {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return nil
		default:
		}
		if err := w.refill(ctx); err != nil {
			return err
		}
		for len(w.todo) > 0 {
			t, needed, err := w.triage(ctx, &w.todo[0])
			if err != nil {
				return err
			}
			if needed {
				select {
				case tasks <- t:
				case <-stop:
					return nil
				case <-ctx.Done():
					return nil
				}
			}
			w.todo = w.todo[1:]
		}
	}
	return nil
}

// refill reads the next page when the last one is used up.
func (w *walk) refill(ctx context.Context) error {
	if len(w.todo) > 0 {
		return nil
	}
	var err error
	w.todo, err = w.secrets.read(ctx)
	return err
}

// triage returns whether a Secret needs a worker, and counts it if not.
func (w *walk) triage(ctx context.Context, s *corev1.Secret) (t task, needed bool, err error) {
	done := outcome{condition: w.target.judge(s)}
	switch {
	case done.condition == stale && isImmutable(s):
		done.problem = problemOf(s, Immutable, "")
	case done.condition == stale:
		t, err = w.taskOf(ctx, s)
		return t, err == nil, err
	case done.condition == fresh:
		t.secret = s
		if t.uses, err = w.unnotifiedUses(ctx, s); err != nil || len(t.uses) > 0 {
			return t, err == nil, err
		}
	}
	w.record(task{secret: s}, done)
	return task{}, false, nil
}

func (w *walk) taskOf(ctx context.Context, s *corev1.Secret) (task, error) {
	accounts, err := w.accounts.in(ctx, s.Namespace)
	if err != nil {
		return task{}, err
	}
	uses, err := w.uses.in(ctx, s.Namespace)
	if err != nil {
		return task{}, err
	}
	return task{secret: s, accounts: accounts, uses: uses[s.Name]}, nil
}

// unnotifiedUses returns the uses by pods that existed when the Secret was signed again and were not notified: the
// process that did it may have died right after. Normally there are none.
func (w *walk) unnotifiedUses(ctx context.Context, s *corev1.Secret) ([]use, error) {
	at, ok := resignedAt(s)
	if w.settled || !ok {
		return nil, nil
	}
	all, err := w.uses.in(ctx, s.Namespace)
	if err != nil {
		return nil, err
	}
	last := writeOf(w.target.Version, s)
	var unnotified []use
	for _, u := range all[s.Name] {
		if u.mounted && !u.created.After(at) && u.notified.before(last) {
			unnotified = append(unnotified, u)
		}
	}
	return unnotified, nil
}
