package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/thread"
)

// makeNamespace makes a network namespace without a name on this host, so that no other tool can change or hold it: it
// exists as long as the file is open or a process is in it.
func makeNamespace() (namespace *os.File, err error) {
	err = thread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unsharing the network namespace: %w", err)
		}
		namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return namespace, err
}

// namedDir is where iproute2 keeps named network namespaces, and where earlier versions kept those of machines.
const namedDir = "/run/netns"

// removeNamed removes a network namespace that an earlier version mounted in namedDir.
func removeNamed(name string) error {
	path := filepath.Join(namedDir, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountAll(path); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, unix.EBUSY) {
		return err
	}
	// iproute2 mounts namedDir over itself when it first uses it: an earlier mount of a namespace is then mounted once
	// more below, where no path leads. A file that is not mounted on in the remover's namespace can be removed, which
	// also removes its mounts elsewhere (rename(2), EBUSY).
	return thread.Run(func() error { return removeAside(path) })
}

// removeAside removes a file in a separate mount namespace of this thread, in which it first unmounts what is mounted
// on it and over it.
func removeAside(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unsharing the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for {
		if err := unmountAll(path); err != nil {
			return err
		}
		err := os.Remove(path)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if unmounting := unix.Unmount(filepath.Dir(path), unix.MNT_DETACH); unmounting != nil {
			return errors.Join(err, unmounting)
		}
	}
}

// unmountAll detaches every mount on the path.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted there now
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
}
