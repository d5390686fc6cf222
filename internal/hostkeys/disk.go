package hostkeys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// disk is one directory. A crash can happen before, during and after each of its methods.
type disk interface {
	read(name string) ([]byte, error)
	names() ([]string, error)
	// create writes a new file, with the owner, group and mode of the file named like, if that exists. When it returns
	// nil, the content is on disk. The name is durable once the directory is synced.
	create(name, like string, content []byte) error
	// rename replaces a file by another atomically.
	rename(from, to string) error
	remove(name string) error
	// sync makes the effects of the other methods durable.
	sync() error
}

// rootDisk is the directory that a path led to when it was opened, even if the path changes.
type rootDisk struct {
	dir *atomicfile.Dir
	// self is the directory as a file.
	self *os.File
}

func openDisk(path string) (*rootDisk, error) {
	dir, err := atomicfile.OpenDir(path)
	if err != nil {
		return nil, err
	}
	return &rootDisk{dir, dir.File()}, nil
}

func (d *rootDisk) lock() error                      { return d.dir.Lock() }
func (d *rootDisk) close() error                     { return d.dir.Close() }
func (d *rootDisk) read(name string) ([]byte, error) { return d.dir.ReadFile(name) }
func (d *rootDisk) names() ([]string, error)         { return d.dir.Names() }
func (d *rootDisk) rename(from, to string) error     { return d.dir.Rename(from, to) }
func (d *rootDisk) remove(name string) error         { return d.dir.Remove(name) }
func (d *rootDisk) sync() error                      { return d.dir.Sync() }

func (d *rootDisk) create(name, like string, content []byte) error {
	return d.dir.Create(name, like, content)
}

// makeDir makes a directory and its parents durably, with mode 0700.
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
