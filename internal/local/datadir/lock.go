package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another process already runs the user clusters of a data directory.
var ErrLocked = errors.New("another keyturn-local uses this data directory")

// lockName is the file that is locked to change user clusters.
const lockName = "local.lock"

// Lock makes this process the one that may change user clusters, until it ends or closes the returned lock. It returns
// ErrLocked if another process holds the lock.
func (d *Dir) Lock() (io.Closer, error) {
	if err := d.Claim(); err != nil {
		return nil, err
	}
	return LockFile(d.Path(lockName), unix.LOCK_EX|unix.LOCK_NB)
}

// LockFile locks a file that stays, since removing it would let two processes each lock a different file.
func LockFile(path string, how int) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}
