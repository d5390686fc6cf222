// Package locktest locks directories as another user of the host does, for tests of what must go on meanwhile.
package locktest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Nobody is a user that is neither root nor the one who runs the tests.
const Nobody = 65534

// Dir returns a temporary directory that everybody can read.
func Dir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// LockAsNobody opens and locks a file or directory that everybody can read, as Nobody, until the test ends. It skips
// tests that root does not run.
func LockAsNobody(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	err := asNobody(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = f.Close() })
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	})
	if err != nil {
		t.Fatalf("locking as user %d: %v", Nobody, err)
	}
}

// CannotOpen fails the test if Nobody can open a file, and so lock it.
func CannotOpen(t *testing.T, path string) {
	t.Helper()
	err := asNobody(func() error {
		f, err := os.Open(path)
		if err == nil {
			_ = f.Close()
		}
		return err
	})
	if !os.IsPermission(err) {
		t.Errorf("user %d opens %s: %v", Nobody, path, err)
	}
}

func asNobody(do func() error) error {
	done := make(chan error)
	go func() {
		// Not unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, Nobody, Nobody, Nobody); errno != 0 {
			done <- errno
			return
		}
		done <- do()
	}()
	return <-done
}
