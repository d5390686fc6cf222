package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
)

// mountNew mounts a new file system on the directory target, which it creates.
func mountNew(target, fstype, options string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fstype, target, fstype, flags, options); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", fstype, target, err)
	}
	return nil
}

// bind mounts a file or directory, with everything mounted in it, at target, which it creates. It is writable only on
// request, and if the source is.
func bind(source, target string, readonly bool) error {
	if err := makeMountPoint(source, target); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
	if readonly {
		return change(target, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	return change(target, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
}

func makeMountPoint(source, target string) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// change sets and clears flags of the mount at target and of all mounts below it, in this namespace; other flags do not
// change.
func change(target string, attr *unix.MountAttr) error {
	if err := unix.MountSetattr(-1, target, unix.AT_RECURSIVE, attr); err != nil {
		return fmt.Errorf("changing the mount on %s: %w", target, err)
	}
	return nil
}

// devices are the character devices of a machine: name, major and minor number.
var devices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"kmsg", 1, 11}, {"tty", 5, 0},
}

// mountDev makes a /dev with the few devices that containers are made of.
func mountDev(dev string) error {
	if err := mountNew(dev, "tmpfs", "mode=755", unix.MS_NOSUID|unix.MS_NOEXEC); err != nil {
		return err
	}
	for _, d := range devices {
		path := filepath.Join(dev, d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making device %s: %w", path, err)
		}
		if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // devices that everybody may use
			return err
		}
	}
	links := map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC
	if err := mountNew(filepath.Join(dev, "pts"), "devpts", "newinstance,ptmxmode=0666,mode=620", safe); err != nil {
		return err
	}
	if err := mountNew(filepath.Join(dev, "shm"), "tmpfs", "mode=1777", safe|unix.MS_NODEV); err != nil {
		return err
	}
	return mountNew(filepath.Join(dev, "mqueue"), "mqueue", "", safe|unix.MS_NODEV)
}

// mountGroups mounts the control groups as this cgroup namespace shows them, with the machine's own as the root.
func mountGroups(target string, trees []cgroup.Hierarchy) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if trees[0].Unified {
		if err := unix.Mount("cgroup2", target, "cgroup2", safe, ""); err != nil {
			return fmt.Errorf("mounting cgroup2 on %s: %w", target, err)
		}
		return delegateAll(target)
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", safe, "mode=755"); err != nil {
		return fmt.Errorf("mounting tmpfs on %s: %w", target, err)
	}
	for _, tree := range trees {
		if err := mountTree(target, tree, safe); err != nil {
			return err
		}
	}
	return nil
}

// mountTree mounts one version 1 hierarchy under the name that it has on the host, and links each of its
// controllers to it (cpu to cpu,cpuacct).
func mountTree(target string, tree cgroup.Hierarchy, flags uintptr) error {
	name := filepath.Base(tree.Mount)
	at := filepath.Join(target, name)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	options := tree.Options
	if strings.HasPrefix(options, "name=") {
		options = "none," + options
	}
	if err := unix.Mount("cgroup", at, "cgroup", flags, options); err != nil {
		return fmt.Errorf("mounting cgroup %s on %s: %w", options, at, err)
	}
	for controller := range strings.SplitSeq(tree.Options, ",") {
		if controller == name || strings.HasPrefix(controller, "name=") {
			continue
		}
		if err := os.Symlink(name, filepath.Join(target, controller)); err != nil {
			return err
		}
	}
	return nil
}

// delegateAll moves this process from the machine's root group into a child, and lets the other children use the
// controllers: in version 2, a group with processes cannot share its controllers.
func delegateAll(root string) error {
	own := filepath.Join(root, "init")
	if err := os.MkdirAll(own, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("joining control group %s: %w", own, err)
	}
	cgroup.Delegate(root)
	return nil
}
