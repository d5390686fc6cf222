package atomicfile

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrBusy means that another process is changing the directory. Try again.
var ErrBusy = errors.New("another process is changing the directory")

// Dir is the directory that a path led to when it was opened, even if the path changes. Names are of files directly in
// it: nothing is read, written or deleted outside, not even through links.
type Dir struct {
	root *os.Root
	// self is the directory as a file.
	self *os.File
}

// OpenDir opens a directory.
func OpenDir(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Dir{root: root, self: self}, nil
}

// File returns the directory as a file.
func (d *Dir) File() *os.File { return d.self }

// Lock excludes every other process until Close, or returns ErrBusy. It does not wait, since the holder of the lock may
// be paused forever.
func (d *Dir) Lock() error {
	err := unix.Flock(int(d.self.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

// Close releases the lock explicitly, since a child that this process is just starting has a copy of the file.
func (d *Dir) Close() error {
	return errors.Join(unix.Flock(int(d.self.Fd()), unix.LOCK_UN), d.self.Close(), d.root.Close())
}

// ReadFile returns the content of a file.
func (d *Dir) ReadFile(name string) ([]byte, error) { return d.root.ReadFile(name) }

// FS returns the content of the directory and below it.
func (d *Dir) FS() fs.FS { return d.root.FS() }

// Names returns the names in the directory.
func (d *Dir) Names() ([]string, error) {
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

// Create writes a new file, with the owner, group and mode of the file named like, or with mode 0600 if that does not
// exist. When it returns nil, the content is on disk. The name is durable once the directory is synced.
func (d *Dir) Create(name, like string, content []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, d.imitate(f, like), f.Sync(), f.Close())
}

// imitate gives a file the mode, owner and group of another. The mode comes first, since a process without CAP_FOWNER
// may not change it once the file has another owner. It does not follow a link, which does not show who may read its
// replacement.
func (d *Dir) imitate(f *os.File, like string) error {
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
	if err := f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

// Rename replaces a file by another atomically.
func (d *Dir) Rename(from, to string) error { return d.root.Rename(from, to) }

// Remove deletes a file, also in a directory below.
func (d *Dir) Remove(name string) error { return d.root.Remove(name) }

// Sync makes the effects of Create, Rename and Remove durable.
func (d *Dir) Sync() error { return d.self.Sync() }

// Replace gives a file this content atomically, using a new file whose name begins with a dot. The file keeps its
// owner, group and mode. When it returns nil, the content is on disk.
func (d *Dir) Replace(name string, content []byte) error {
	if old, err := d.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return d.Sync()
	}
	temporary := "." + name + "." + rand.Text()
	err := d.Create(temporary, name, content)
	if err == nil {
		// A crash here leaves the old file whole, and the new one under another name.
		err = d.Rename(temporary, name)
	}
	if err == nil {
		return d.Sync()
	}
	if discard := d.Remove(temporary); discard != nil && !errors.Is(discard, fs.ErrNotExist) {
		err = errors.Join(err, discard)
	}
	return err
}
