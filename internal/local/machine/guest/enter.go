package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
)

// enter builds the machine's root in its fresh mount namespace, goes there, and becomes its init.
func enter(dir string) error {
	config, err := readConfig(filepath.Join(dir, ConfigPath))
	if err != nil {
		return err
	}
	// A cgroup namespace belongs to the thread that makes it; the program that the same thread executes inherits it.
	runtime.LockOSThread()
	// Our parent hides what it writes from other users. In here, pods that are not root must read their root.
	unix.Umask(0o022)
	trees, err := config.joinGroup()
	if err != nil {
		return fmt.Errorf("entering machine %s: %w", config.Hostname, err)
	}
	if err := config.buildRoot(dir, trees); err != nil {
		return fmt.Errorf("building the root of machine %s: %w", config.Hostname, err)
	}
	if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
		return fmt.Errorf("naming machine %s: %w", config.Hostname, err)
	}
	if err := config.setSysctls(); err != nil {
		return fmt.Errorf("entering machine %s: %w", config.Hostname, err)
	}
	if err := config.dropCapabilities(); err != nil {
		return fmt.Errorf("entering machine %s: %w", config.Hostname, err)
	}
	err = unix.Exec(InitPath, []string{InitPath, "init"}, os.Environ())
	return fmt.Errorf("becoming init of machine %s: %w", config.Hostname, err)
}

// joinGroup moves this process into the machine's control group and makes that the root of its cgroup namespace.
func (c Config) joinGroup() ([]cgroup.Hierarchy, error) {
	group, err := cgroup.Open(c.Group)
	if err != nil {
		return nil, err
	}
	if err := group.Join(); err != nil {
		return nil, err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return nil, fmt.Errorf("unsharing the cgroup namespace: %w", err)
	}
	return group.Hierarchies(), nil
}

// buildRoot mounts the machine's root on its directory root and makes it this process's. All mounts end with the
// namespace, when the machine's last process ends.
func (c Config) buildRoot(dir string, trees []cgroup.Hierarchy) error {
	// From here on no mount of ours reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	root := filepath.Join(dir, "root")
	return inOrder(
		func() error { return mountNew(root, "tmpfs", "mode=755", unix.MS_NOSUID) },
		func() error { return mountSystem(root) },
		func() error { return bind(filepath.Join(dir, "var"), filepath.Join(root, "var"), false) },
		func() error { return bind(filepath.Join(dir, "etc"), filepath.Join(root, "etc"), !c.WritableEtc) },
		func() error { return mountKernel(root) },
		func() error { return c.mountBinds(root) },
		func() error { return mountDev(filepath.Join(root, "dev")) },
		func() error { return mountGroups(filepath.Join(root, "sys/fs/cgroup"), trees) },
		func() error { return changeRoot(root) },
	)
}

// inOrder takes one step after another, up to the first that fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mountSystem shows the host's programs read-only, in any layout that they have (/bin may be a link to /usr/bin).
func mountSystem(root string) error {
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		source, target := filepath.Join("/", name), filepath.Join(root, name)
		link, err := os.Readlink(source)
		if err == nil {
			if err := os.Symlink(link, target); err != nil {
				return err
			}
			continue
		}
		if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := bind(source, target, true); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) mountBinds(root string) error {
	for _, b := range c.Binds {
		if err := bind(b.Source, filepath.Join(root, b.Target), true); err != nil {
			return err
		}
	}
	return nil
}

// mountKernel mounts /proc, /sys, /run and /tmp. Kernel parameters are read-only except those of the network namespace,
// since the others are the host's.
func mountKernel(root string) error {
	proc, sys := filepath.Join(root, "proc"), filepath.Join(root, "sys")
	params := filepath.Join(proc, "sys")
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	return inOrder(
		func() error { return mountNew(filepath.Join(root, "run"), "tmpfs", "mode=755", safe) },
		func() error { return mountNew(filepath.Join(root, "tmp"), "tmpfs", "mode=1777", safe) },
		func() error { return mountNew(proc, "proc", "", safe|unix.MS_NOEXEC) },
		func() error { return bind(params, params, true) },
		func() error { return bind(filepath.Join(params, "net"), filepath.Join(params, "net"), false) },
		func() error { return mountNew(sys, "sysfs", "", safe|unix.MS_NOEXEC) },
		func() error { return change(sys, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) },
	)
}

// changeRoot makes root the root of this mount namespace and detaches the old one.
func changeRoot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("changing directory to %s: %w", root, err)
	}
	// Both have the same path: the old root covers the new one until it is detached (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("changing directory to /: %w", err)
	}
	// kubelet's mounts must reach the pods that share its directories.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("making mounts shared: %w", err)
	}
	return nil
}

// setSysctls sets the parameters of the network namespace.
func (c Config) setSysctls() error {
	for name, value := range c.Sysctls {
		path := filepath.Join("/proc/sys/net", name)
		if !strings.HasPrefix(path, "/proc/sys/net/") {
			return fmt.Errorf("setting %s: not a parameter of the network namespace", path)
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("setting %s: %w", path, err)
		}
	}
	return nil
}

// notInMachines are capabilities that nothing in a machine needs and that affect the whole host: opening files by
// handle, past every mount (DAC_READ_SEARCH), loading modules, reaching devices and ports, rebooting, setting the
// clock. MKNOD stays, since containerd gives it to every container.
var notInMachines = []uintptr{
	unix.CAP_DAC_READ_SEARCH, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME,
}

// dropCapabilities removes them from what this thread executes next, and from all its descendants (capabilities(7)).
func (c Config) dropCapabilities() error {
	for _, number := range notInMachines {
		if number == unix.CAP_DAC_READ_SEARCH && c.ReadSearch {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0); err != nil {
			return fmt.Errorf("dropping capability %d: %w", number, err)
		}
	}
	return nil
}
