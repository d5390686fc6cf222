// Package lockfile has locks between processes that no other user can hold. Whoever can open a file or a directory can
// lock it, even if he can only read it. So each lock is on a file of its own, which only its owner can open. The file
// exists only while somebody holds the lock, or until the next one does after a crash.
package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrBusy means that another process holds the lock.
var ErrBusy = errors.New("another process holds the lock")

// Lock is a lock that this process holds. The kernel releases it if the process dies.
type Lock struct {
	dir  *os.Root
	name string
	file *os.File
	// opened is dir if the lock has opened it.
	opened *os.Root
}

// Try takes the lock of this name in a directory, or returns ErrBusy. Nobody else may be able to write to the
// directory, which must stay open until Unlock.
func Try(dir *os.Root, name string) (*Lock, error) {
	return take(dir, name, unix.LOCK_EX|unix.LOCK_NB)
}

// Wait takes the lock of this path. It waits for a process that holds it. Nobody else may be able to write to the
// directory.
func Wait(path string) (*Lock, error) {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	l, err := take(dir, filepath.Base(path), unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	l.opened = dir
	return l, nil
}

func take(dir *os.Root, name string, how int) (*Lock, error) {
	for {
		f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		current, err := lock(dir, name, f, how)
		if err == nil && current {
			return &Lock{dir: dir, name: name, file: f}, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		// Its holder has removed it since it was opened.
	}
}

// lock locks an open file, and reports whether it still has its name.
func lock(dir *os.Root, name string, f *os.File, how int) (current bool, err error) {
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, ErrBusy
	}
	if err != nil {
		return false, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	is, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !named.Mode().IsRegular() {
		return false, fmt.Errorf("locking %s: it is not a file", f.Name())
	}
	return os.SameFile(is, named), nil
}

// Unlock releases the lock.
func (l *Lock) Unlock() error {
	err := l.dir.Remove(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, l.file.Close())
	if l.opened != nil {
		err = errors.Join(err, l.opened.Close())
	}
	return err
}
