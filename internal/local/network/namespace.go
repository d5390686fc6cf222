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

// namespaceDir is where iproute2 keeps the named network namespaces.
const namespaceDir = "/run/netns"

// NamespacePath is the file that stands for the network namespace of that name.
func NamespacePath(name string) string { return filepath.Join(namespaceDir, name) }

// makeNamespace makes a network namespace of that name and opens it. The caller closes it.
func makeNamespace(name string) (netns.NsHandle, error) {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return netns.None(), err
	}
	path := NamespacePath(name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return netns.None(), err
	}
	// Crash here: a plain file of that name, which deleteNamespace removes like a namespace.
	if err := bindNewNamespace(path); err != nil {
		return netns.None(), err
	}
	return netns.GetFromPath(path)
}

// bindNewNamespace mounts a new network namespace on the file at path.
func bindNewNamespace(path string) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = home.Close() }()
	defer func() {
		// A thread that does not find home stays locked, and the runtime ends it with this goroutine.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unsharing the network namespace: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting on %s: %w", path, err)
	}
	return nil
}

func deleteNamespace(name string) error {
	path := NamespacePath(name)
	// EINVAL: nothing is mounted there.
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
