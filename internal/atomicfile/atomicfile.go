// Package atomicfile writes files atomically and durably: a file has either its old or its new content, even after a
// power cut. Only its owner can read it.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at path, with mode 0600. When it returns nil, the content is on disk.
func Write(path string, content []byte) error {
	if err := write(path, content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Ensure writes the file unless it has the content already. It creates the directory, with mode 0700, if it is missing.
func Ensure(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return Write(path, content)
}

// Create writes a new file, with mode 0600. The error is fs.ErrExist if there is one already: of several processes, one
// creates it. When it returns nil, the content is on disk.
func Create(path string, content []byte) error {
	if err := create(path, content); err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return nil
}

func create(path string, content []byte) error {
	temporary, err := writeTemporary(path, content)
	if err != nil {
		return err
	}
	// A crash here leaves one temporary file of mode 0600, or two names of one file.
	err = errors.Join(os.Link(temporary, path), os.Remove(temporary))
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func write(path string, content []byte) error {
	temporary, err := writeTemporary(path, content)
	if err != nil {
		return err
	}
	// A crash here leaves the old file whole, and a temporary one of mode 0600.
	if err = os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(path))
}

// writeTemporary writes a file beside the path, and returns its name.
func writeTemporary(path string, content []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// syncDir makes a rename in the directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
