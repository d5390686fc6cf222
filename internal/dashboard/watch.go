package dashboard

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/printable"
)

const (
	// rewatchAfter is how long a broken watch can go unnoticed.
	rewatchAfter = time.Minute
	retryAfter   = time.Second
	listTimeout  = 30 * time.Second
)

// watcher keeps a feed up to date.
type watcher struct {
	*Server
	feed *feed
	// version is the resource version from which a watch continues; empty: the clusters must be listed.
	version string
}

// run lists and watches until the context ends, also if the API server is down for some time.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.round(ctx); err != nil && ctx.Err() == nil {
			w.feed.setProblem(printable.Line(err.Error()))
		}
		pause(ctx)
	}
}

// round lists the clusters, if it must, and then watches them once.
func (w *watcher) round(ctx context.Context) error {
	if w.version == "" {
		if err := w.list(ctx); err != nil {
			return err
		}
	}
	err := w.watch(ctx)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		w.version = ""
		return nil
	}
	return err
}

func (w *watcher) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	list := &v1alpha1.UserClusterList{}
	if err := w.Client.List(ctx, list, client.InNamespace(w.Namespace)); err != nil {
		return err
	}
	w.feed.replace(list.Items, w.Row)
	w.feed.setProblem("")
	w.version = list.ResourceVersion
	return nil
}

// watch applies changes after the version until the watch ends.
func (w *watcher) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rewatchAfter)
	defer cancel()
	changes, err := w.Client.Watch(ctx, &v1alpha1.UserClusterList{}, &client.ListOptions{
		Namespace: w.Namespace, Raw: &metav1.ListOptions{ResourceVersion: w.version, AllowWatchBookmarks: true},
	})
	if err != nil {
		return err
	}
	defer changes.Stop()
	w.feed.setProblem("")
	for event := range changes.ResultChan() {
		if err := w.take(event); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) take(event watch.Event) error {
	uc, ok := event.Object.(*v1alpha1.UserCluster)
	if !ok {
		return apierrors.FromObject(event.Object)
	}
	w.version = uc.ResourceVersion
	switch event.Type {
	case watch.Added, watch.Modified:
		w.feed.set(uc, w.Row)
	case watch.Deleted:
		w.feed.drop(keyOf(uc))
	}
	return nil
}

// pause keeps a watcher from retrying in a tight loop.
func pause(ctx context.Context) {
	timer := time.NewTimer(retryAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
