package hostkeys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// disk is one directory. A crash can come before, in and after each of its methods.
type disk interface {
	read(name string) ([]byte, error)
	names() ([]string, error)
	// create writes a new file, with the owner, group and mode of the file named like, if that exists. When it returns
	// nil, the content is on disk, and the name is there once the directory is synced.
	create(name, like string, content []byte) error
	// rename replaces a file by another in one step.
	rename(from, to string) error
	remove(name string) error
	// sync makes last what the other methods did.
	sync() error
}

// rootDisk is the directory that a path led to when it was opened, and no other.
type rootDisk struct {
	root *os.Root
	// self is the directory as a file.
	self *os.File
}

func openDisk(path string) (*rootDisk, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &rootDisk{root: root, self: self}, nil
}

// lock keeps every other process out until close. It does not wait: who holds the lock may be paused for ever.
func (d *rootDisk) lock() error {
	err := unix.Flock(int(d.self.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

// close gives up the lock explicitly: a child that is just being started by this process has a copy of the file.
func (d *rootDisk) close() error {
	return errors.Join(unix.Flock(int(d.self.Fd()), unix.LOCK_UN), d.self.Close(), d.root.Close())
}

func (d *rootDisk) read(name string) ([]byte, error) { return d.root.ReadFile(name) }

func (d *rootDisk) names() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (d *rootDisk) create(name, like string, content []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, d.imitate(f, like), f.Sync(), f.Close())
}

// imitate gives a file the owner, group and mode of another. A link is not followed, since it says nothing about who
// may read what takes its name.
func (d *rootDisk) imitate(f *os.File, like string) error {
	info, err := d.root.Lstat(like)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("finding the owner of %s: not supported here", like)
	}
	return errors.Join(f.Chown(int(owner.Uid), int(owner.Gid)), f.Chmod(info.Mode().Perm()))
}

func (d *rootDisk) rename(from, to string) error { return d.root.Rename(from, to) }
func (d *rootDisk) remove(name string) error     { return d.root.Remove(name) }
func (d *rootDisk) sync() error                  { return d.self.Sync() }

// makeDir makes a directory and its parents, with mode 0700, so that they last.
func makeDir(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
