package keydir

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watcher waits for changes of a directory.
type Watcher struct {
	dir     string
	notify  *fsnotify.Watcher
	watched string
}

// settle is how long changes are collected, since one replacement causes several.
const settle = 10 * time.Millisecond

// NewWatcher watches a directory. The directory need not exist yet, but its parent must. Close the watcher in the end.
func NewWatcher(dir string) (*Watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching key directory %s: %w", dir, err)
	}
	w := &Watcher{dir: filepath.Clean(dir), notify: notify}
	// The parent reports a directory or a link that is renamed into it.
	if err := notify.Add(filepath.Dir(w.dir)); err != nil {
		_ = notify.Close()
		return nil, fmt.Errorf("watching key directory %s: %w", dir, err)
	}
	w.follow()
	return w, nil
}

// Close stops the watch.
func (w *Watcher) Close() error { return w.notify.Close() }

// Wait returns when the directory may have changed since the last Wait, when the interval has passed, or when ctx ends.
// It may also return without a change.
func (w *Watcher) Wait(ctx context.Context, interval time.Duration) {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for changed := false; !changed; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			w.follow()
			return
		case e := <-w.notify.Events:
			changed = w.concerns(e)
		case err := <-w.notify.Errors: // such as an overflow, which loses changes
			changed = err != nil
		}
	}
	w.drain(ctx)
	w.follow()
}

// concerns reports whether an event is about the directory, not about its neighbours.
func (w *Watcher) concerns(e fsnotify.Event) bool {
	return e.Name == w.dir || filepath.Dir(e.Name) == w.watched
}

func (w *Watcher) drain(ctx context.Context) {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-w.notify.Events:
		}
	}
}

// follow watches the directory that is there now. A watch belongs to an inode, so each replacement needs a new one. If
// that fails, Wait returns only when its interval has passed.
func (w *Watcher) follow() {
	target, err := filepath.EvalSymlinks(w.dir)
	if err != nil {
		return
	}
	if w.watched != "" {
		_ = w.notify.Remove(w.watched) // fails if it is gone
	}
	w.watched = target
	_ = w.notify.Add(target)
}
