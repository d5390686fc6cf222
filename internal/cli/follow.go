package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/hint"
)

// errWaitOver is the cause of a context whose timeout expired.
var errWaitOver = errors.New("the timeout expired")

const (
	// rewatchAfter is how long a broken watch can go unnoticed.
	rewatchAfter = 30 * time.Second
	retryAfter   = time.Second
	// mostRefusals is how many unauthorized answers in a row a follower accepts as final. An API server that has just
	// started gives such answers for some seconds, until it has fetched the keys of the issuer of OIDC tokens.
	mostRefusals = 15
)

// look is called with each new state of a user cluster, nil when it is gone. It returns what is going on, and whether
// that is the end.
type look func(uc *v1alpha1.UserCluster) (step, detail string, done bool)

// follow shows the progress of a user cluster until look returns done. If the API server goes down meanwhile, it waits
// until it is back.
func (a *app) follow(ctx context.Context, c admin, name string, w waiting, look look) error {
	ctx, cancel := w.context(ctx)
	defer cancel()
	f := &follower{admin: c, name: name, look: look, progress: a.progress(), retry: retryAfter}
	err := f.run(ctx)
	f.progress.end()
	if err != nil && errors.Is(context.Cause(ctx), errWaitOver) {
		advice := fmt.Sprintf("it continues in the background; `%s` shows the progress", a.program.describe+c.arguments(name))
		return &exitError{code: ExitTimeout, err: hint.Errorf(advice,
			"user cluster %s was not done after %s; last seen: %s", name, w.timeout, f.progress.text())}
	}
	return err
}

type follower struct {
	admin    admin
	name     string
	look     look
	progress *progress
	retry    time.Duration
	// refusals is the number of unauthorized answers in a row.
	refusals int
}

func (f *follower) run(ctx context.Context) error {
	for {
		uc, err := f.admin.get(ctx, f.name)
		switch {
		case isMissing(err):
			uc = nil
		case f.permanent(err):
			return err
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			f.progress.show("the admin cluster does not answer", err.Error())
			f.pause(ctx)
			continue
		}
		if f.see(uc) {
			return nil
		}
		if uc == nil {
			return failed("somebody deleted it", "user cluster %s is gone", f.name)
		}
		if f.watch(ctx, uc) {
			return nil
		}
		f.pause(ctx)
	}
}

// permanent reports whether asking again would get the same answer.
func (f *follower) permanent(err error) bool {
	if !apierrors.IsUnauthorized(err) {
		f.refusals = 0
		_, final := errors.AsType[*exitError](err)
		return final || apierrors.IsForbidden(err)
	}
	f.refusals++
	return f.refusals >= mostRefusals
}

func (f *follower) see(uc *v1alpha1.UserCluster) (done bool) {
	step, detail, done := f.look(uc)
	f.progress.show(step, detail)
	if done {
		f.progress.finish()
	}
	return done
}

// watch calls see for every change after uc until it is done, or must start again from a fresh read.
func (f *follower) watch(ctx context.Context, uc *v1alpha1.UserCluster) (done bool) {
	ctx, cancel := context.WithTimeout(ctx, rewatchAfter)
	defer cancel()
	w, err := f.admin.client.Watch(ctx, &v1alpha1.UserClusterList{}, &client.ListOptions{
		Namespace:     uc.Namespace,
		FieldSelector: fields.OneTermEqualSelector("metadata.name", uc.Name),
		Raw:           fromVersion(uc.ResourceVersion),
	})
	if err != nil {
		return false
	}
	defer w.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case event, ok := <-w.ResultChan():
			if event.Type == watch.Deleted {
				return f.see(nil)
			}
			changed, isCluster := event.Object.(*v1alpha1.UserCluster)
			if !ok || !isCluster {
				return false
			}
			if f.see(changed) {
				return true
			}
		case <-tick.C:
			f.progress.tick()
		case <-ctx.Done():
			return false
		}
	}
}

// pause keeps a follower from retrying in a tight loop.
func (f *follower) pause(ctx context.Context) {
	timer := time.NewTimer(f.retry)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	f.progress.tick()
}

// fromVersion makes a watch start after a resource version.
func fromVersion(v string) *metav1.ListOptions { return &metav1.ListOptions{ResourceVersion: v} }
