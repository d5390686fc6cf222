package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/webhooks"
)

const (
	// attempts is how often one Secret is tried in one walk.
	attempts = 6
	// firstPause is the longest pause after a failed write; it doubles each time. A conflict needs none.
	firstPause = 50 * time.Millisecond
	// notifyTimeout is how long pods are notified after ctx has ended, since they hold dead tokens by then.
	notifyTimeout = 5 * time.Second
	// writeTimeout is how long one write may take. It is less than a Pass of the controller may.
	writeTimeout = 4 * time.Second
	// notifiers is how many pods one worker notifies at once.
	notifiers = 8
)

// outcome is the result of processing a Secret.
type outcome struct {
	condition condition
	resigned  bool
	problem   *Problem // if it is stale
	// writer is who wrote the token that was replaced.
	writer string
}

// work brings one Secret to the target and notifies the pods that mount it.
//
// After a crash between writing the Secret and annotating its pods, they hold a dead token. The next walk sees in
// managedFields that we wrote it and in the pods that they were not notified (see unnotifiedUses). Kubelets notice
// without help within about a minute.
func (w *walk) work(ctx context.Context, t task) {
	done := outcome{condition: fresh}
	if t.accounts != nil {
		done = w.resign(ctx, t)
	}
	if done.condition == stale && ctx.Err() != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.unfinished = append(w.unfinished, *t.secret)
		return
	}
	w.record(t, done)
	if done.condition == fresh {
		w.tell(ctx, t)
	}
}

func (w *walk) record(t task, done outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &w.result
	if done.condition != gone && done.condition != foreign {
		r.Total++
	}
	if done.condition == empty {
		r.Pending++
	}
	if done.resigned {
		r.Resigned++
		if w.history.resigned(t.secret.UID) {
			r.Blocked = named(r.Blocked, *problemOf(t.secret, WrittenBack, done.writer))
		}
	}
	if done.problem != nil {
		r.Stale++
		w.troubled = w.troubled || done.problem.mayPass()
		done.problem.Lasting = done.problem.mayPass() && w.history.lasting()
		r.Blocked = named(r.Blocked, *done.problem)
	}
	if done.condition != fresh {
		return
	}
	for _, u := range t.uses {
		if u.copied != "" {
			r.Copied++
			r.Copies = named(r.Copies, Copy{Namespace: t.secret.Namespace, Pod: u.pod, Secret: t.secret.Name, By: u.copied})
		}
	}
}

// resign tries until the Secret holds a token of the target's key, or cannot. A failed write may have happened; only
// the next read shows. t.secret is then what was last read or written.
func (w *walk) resign(ctx context.Context, t task) outcome {
	var last error
	writer := writerOf(t.secret)
	for attempt := range attempts {
		if attempt > 0 {
			if err := w.reread(ctx, t.secret, attempt, last); apierrors.IsNotFound(err) {
				return outcome{condition: gone}
			} else if err != nil {
				last = err
				continue
			}
		}
		if c := w.target.judge(t.secret); c != stale {
			return outcome{condition: c, resigned: c == fresh, writer: writer}
		}
		writer = writerOf(t.secret)
		problem, err := w.write(ctx, t)
		switch {
		case errors.Is(err, errNoAccount):
			return outcome{condition: gone} // API servers refuse its token
		case problem != nil:
			return outcome{condition: stale, problem: problem}
		case err == nil:
			return outcome{condition: fresh, resigned: true, writer: writer}
		}
		last = err
	}
	return outcome{condition: stale, problem: problemOf(t.secret, Failed, last.Error())}
}

// write writes a Secret once. It returns a problem if retrying is useless, and an error if the Secret should be read
// and tried again.
func (w *walk) write(ctx context.Context, t task) (*Problem, error) {
	s := t.secret
	if isImmutable(s) { // it became so after it was listed
		return problemOf(s, Immutable, ""), nil
	}
	uid, orphaned, err := w.accountOf(ctx, t)
	if err != nil || orphaned != nil {
		return orphaned, err
	}
	if err := w.guard.check(ctx, w.target); err != nil {
		return nil, err
	}
	next, err := w.target.resign(s, uid)
	if err != nil {
		return problemOf(s, Failed, err.Error()), nil
	}
	return w.update(ctx, s, next)
}

// update replaces a Secret. It gives up early on a webhook that does not answer, since repeated attempts for one Secret
// would delay all others.
func (w *walk) update(ctx context.Context, s, next *corev1.Secret) (*Problem, error) {
	limited, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	written, err := w.client.CoreV1().Secrets(s.Namespace).Update(limited, next,
		metav1.UpdateOptions{FieldManager: fieldManager})
	if err == nil {
		*s = *written
		return nil, nil
	}
	if refused(err) {
		return problemOf(s, Refused, err.Error()), nil
	}
	if ctx.Err() == nil {
		err = webhooks.Explain(limited, w.client, err, webhooks.Legacy...)
	}
	if _, ok := errors.AsType[*webhooks.Error](err); ok || limited.Err() != nil && ctx.Err() == nil {
		return problemOf(s, Unanswered, err.Error()), nil
	}
	return nil, err
}

// refused reports whether the API server refuses this write permanently. 404 is left to reading.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := int(status.Status().Code)
	return code >= 400 && code < 500 && !slices.Contains([]int{
		http.StatusNotFound, http.StatusConflict, http.StatusRequestTimeout, http.StatusTooManyRequests,
	}, code)
}

// errNoAccount means that the ServiceAccount of a Secret is gone: API servers accept no token of it.
var errNoAccount = errors.New("its ServiceAccount is gone")

// accountOf returns the UID of the Secret's ServiceAccount, or that it is orphaned. The list may be older than the
// ServiceAccount, so only the API server can confirm that there is none.
func (w *walk) accountOf(ctx context.Context, t task) (types.UID, *Problem, error) {
	annotations := t.secret.Annotations
	name, uid := annotations[corev1.ServiceAccountNameKey], types.UID(annotations[corev1.ServiceAccountUIDKey])
	if listed := t.accounts[name]; len(listed) == 1 && (uid == "" || uid == listed[0]) {
		return listed[0], nil, nil
	}
	account, err := w.client.CoreV1().ServiceAccounts(t.secret.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil, errNoAccount
	case err != nil:
		return "", nil, fmt.Errorf("reading ServiceAccount %s/%s: %w", t.secret.Namespace, name, err)
	case uid != "" && uid != account.UID:
		return "", problemOf(t.secret, Orphaned, "an earlier ServiceAccount "+name), nil
	}
	return account.UID, nil, nil
}

func problemOf(s *corev1.Secret, reason Reason, detail string) *Problem {
	return &Problem{Namespace: s.Namespace, Name: s.Name, Reason: reason, Detail: detail}
}

// reread pauses, unless the last failure was a conflict, and reads the Secret again.
func (w *walk) reread(ctx context.Context, s *corev1.Secret, attempt int, last error) error {
	if !apierrors.IsConflict(last) {
		longest := firstPause << (attempt - 1)
		timer := time.NewTimer(longest/2 + rand.N(longest/2)) //nolint:gosec // jitter needs no secrecy
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	read, err := w.client.CoreV1().Secrets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if err == nil {
		*s = *read
	}
	return err
}

// tell notifies the pods that mount the Secret, even if ctx has ended, since it already holds its new token.
func (w *walk) tell(ctx context.Context, t task) {
	if len(t.uses) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyTimeout)
	defer cancel()
	pods := make(chan string)
	var wg sync.WaitGroup
	for range min(notifiers, len(t.uses)) {
		wg.Go(func() {
			for pod := range pods {
				w.tellOne(ctx, t.secret, pod)
			}
		})
	}
	for _, u := range t.uses {
		if u.mounted {
			pods <- u.pod
		}
	}
	close(pods)
	wg.Wait()
}

func (w *walk) tellOne(ctx context.Context, s *corev1.Secret, pod string) {
	err := notify(ctx, w.client, s.Namespace, pod, writeOf(w.target.Version, s))
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.unnotified = true // the next walk tries again
		return
	}
	w.result.Notified++
}
