package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// makeNamespace makes a network namespace that has no name on this host, so that no other tool can change or hold it: it lasts
// as long as the file is open or a process is in it.
func makeNamespace() (*os.File, error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer func() { _ = home.Close() }()
	defer func() {
		// A thread that does not find home stays locked, and the runtime ends it with this goroutine.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unsharing the network namespace: %w", err)
	}
	return os.Open("/proc/thread-self/ns/net")
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
	// iproute2 mounts namedDir over itself when it first uses it: a namespace that was mounted before is then mounted once more
	// below, where no path leads. A file that is not mounted on in the namespace of who removes it can be removed, and takes
	// its mounts elsewhere along (rename(2), EBUSY).
	done := make(chan error)
	go func() { done <- removeAside(path) }()
	return <-done
}

// removeAside removes a file in a mount namespace of its own, in which it takes away what is mounted on it and over it. It
// leaves the thread of its goroutine locked, so that the runtime ends it.
func removeAside(path string) error {
	runtime.LockOSThread()
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
			return nil // nothing is mounted there any more
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
}
