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

// settle is how long changes are gathered: one replacement is several of them.
const settle = 10 * time.Millisecond

// NewWatcher watches a directory, which need not exist yet, but its parent must. Close it in the end.
func NewWatcher(dir string) (*Watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching key directory %s: %w", dir, err)
	}
	w := &Watcher{dir: filepath.Clean(dir), notify: notify}
	// The parent sees a directory or a link that is renamed into place.
	if err := notify.Add(filepath.Dir(w.dir)); err != nil {
		_ = notify.Close()
		return nil, fmt.Errorf("watching key directory %s: %w", dir, err)
	}
	w.follow()
	return w, nil
}

// Close ends the watch.
func (w *Watcher) Close() error { return w.notify.Close() }

// Wait returns when the directory may have changed since the last Wait returned, when the interval has passed, or when
// ctx ends. It errs on the side of returning.
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
		case err := <-w.notify.Errors: // such as an overflow: what was lost is not known
			changed = err != nil
		}
	}
	w.drain(ctx)
	w.follow()
}

// concerns leaves out what happens to neighbours of the directory.
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
// that fails, the interval of Wait is what is left.
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
