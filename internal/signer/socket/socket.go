// Package socket makes and inherits the unix sockets of keyturn-signer.
//
// Whoever listens on the signer's path can give the API server any key. So Listen creates the socket in a separate
// directory of mode 0700, with mode 0600, and holds a lock next to it as long as it listens: two signers never
// alternate on one path. A socket of a process that is gone is replaced; one that a process listens on never is.
package socket

import (
	"github.com/keyturn/keyturn/internal/hint"

	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxPath is the longest path of a socket on Linux.
const maxPath = 107

// Listener is a socket with its lock.
type Listener struct {
	*net.UnixListener
	path string
	lock *os.File
}

// ErrInUse is returned when another process listens.
var ErrInUse = errors.New("another process listens there")

// Listen creates a socket of mode 0600. It creates its directory with mode 0700 if it is missing; an existing one must
// belong to the caller and have no wider mode. A relative path stays relative, since the absolute path may be too long;
// the caller's working directory does not change.
func Listen(path string) (*Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (l *Listener, err error) {
	if len(path)+len(newSuffix) > maxPath {
		return nil, fmt.Errorf("the path of a socket has at most %d bytes", maxPath-len(newSuffix))
	}
	if err := makeDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := acquire(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := awaitStale(path); err != nil {
		return nil, err
	}
	u, err := replace(path)
	if err != nil {
		return nil, err
	}
	return &Listener{UnixListener: u, path: path, lock: lock}, nil
}

// Close stops listening in this process, removes the socket, and releases the path.
func (l *Listener) Close() error {
	// While the lock is held, nobody else has created a socket there.
	return errors.Join(os.Remove(l.path), l.UnixListener.Close(), l.lock.Close())
}

func makeDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return hint.Errorf("put the socket into a separate directory", "directory %s belongs to user %d", dir, stat.Uid)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return hint.Errorf("put the socket into a separate directory",
			"directory %s has mode %04o, wider than 0700", dir, perm)
	}
	return nil
}

// acquire takes a lock that ends with the process. Children do not inherit it.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: it holds %s", ErrInUse, path)
		}
		return nil, err
	}
	return f, nil
}

// InUse reports whether a process listens on a path, or is still ending after it did. While it checks, Listen may fail,
// so use it only for a path on which nobody starts to listen.
func InUse(path string) (bool, error) {
	f, err := os.Open(path + ".lock")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// A child of a parent that was just killed may still listen for a moment.
const (
	dying     = 2 * time.Second
	lookAgain = 2 * time.Millisecond
)

// awaitStale returns nil once nobody listens.
func awaitStale(path string) error {
	for deadline := time.Now().Add(dying); ; time.Sleep(lookAgain) {
		live, err := listened(path)
		if err != nil || !live {
			return err
		}
		if time.Now().After(deadline) {
			return ErrInUse
		}
	}
}

func listened(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return false, errors.New("a file that is no socket is there")
	}
	conn, err := net.DialTimeout("unix", path, dying)
	if err == nil {
		_ = conn.Close()
		return true, nil
	}
	// A full backlog means that a process listens, too.
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT), nil
}

const newSuffix = ".new"

// replace replaces a stale socket by a new one atomically, so that the path is never missing.
func replace(path string) (*net.UnixListener, error) {
	temporary := path + newSuffix
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	u.SetUnlinkOnClose(false)
	err = os.Chmod(temporary, 0o600)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = u.Close()
		return nil, err
	}
	return u, nil
}
