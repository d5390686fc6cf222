package lockfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/internal/lockfile"
	"github.com/keyturn/keyturn/internal/lockfile/locktest"
)

func try(t *testing.T, dir string) (*lockfile.Lock, error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return lockfile.Try(root, "lock")
}

// TestOneHolder has many take the lock, wait for it, and give it up, which removes its file each time.
func TestOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var all sync.WaitGroup
	// The kernel's lock is all that keeps two from adding at once.
	count := 0
	for range 8 {
		all.Go(func() {
			for range 200 {
				l, err := lockfile.Wait(path)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := try(t, filepath.Dir(path)); !errors.Is(err, lockfile.ErrBusy) {
					t.Errorf("while the lock is held: %v", err)
				}
				count++
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if count != 8*200 {
		t.Errorf("%d additions", count)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the file is left: %v", err)
	}
}

// TestLockedByAnotherUser has a user lock the directory, who cannot open the file in it.
func TestLockedByAnotherUser(t *testing.T) {
	dir := locktest.Dir(t)
	locktest.LockAsNobody(t, dir)
	l, err := try(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	locktest.CannotOpen(t, filepath.Join(dir, "lock"))
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

// TestAfterACrash has the file of a process that was killed.
func TestAfterACrash(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := try(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

// TestNoFile has something else in place of the file.
func TestNoFile(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"a directory":      func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":           func(path string) error { return os.Symlink("other", path) },
		"a link elsewhere": func(path string) error { return os.Symlink("/etc/passwd", path) },
	} {
		dir := t.TempDir()
		if err := spoil(filepath.Join(dir, "lock")); err != nil {
			t.Fatal(err)
		}
		if _, err := try(t, dir); err == nil || !strings.Contains(err.Error(), "lock") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := lockfile.Wait(filepath.Join(t.TempDir(), "nowhere", "lock")); !os.IsNotExist(err) {
		t.Errorf("no directory: %v", err)
	}
}
