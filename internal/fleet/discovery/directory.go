package discovery

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"gocloud.dev/blob"
)

// What a web server, which is another user, must be able to read.
const (
	fileMode      = 0o644
	directoryMode = 0o755
)

// makesDirectory says that the directory of a URL is made when something is written to it.
func (s *store) makesDirectory() bool {
	yes, _ := strconv.ParseBool(s.url.Query().Get("create_dir"))
	return yes
}

// path returns the file of an object.
func (s *store) path(name string) string {
	return filepath.Join(s.url.Path, filepath.FromSlash(s.url.Query().Get("prefix")+name))
}

// prepare makes the directories of an object below that of the URL, and removes the temporary files that a process which
// was killed while it wrote has left. A bucket needs neither.
func (s *store) prepare(name string) error {
	if s.url.Scheme != "file" {
		return nil
	}
	if _, err := os.Stat(s.url.Path); err != nil && !s.makesDirectory() {
		return err
	}
	if err := makeDirectories(filepath.Dir(s.path(name))); err != nil {
		return err
	}
	return s.sweep(name)
}

// makeDirectories is os.MkdirAll whatever the umask.
func makeDirectories(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirectories(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, directoryMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, directoryMode)
}

// sweep removes the temporary files of an object, which hold public keys of any age.
func (s *store) sweep(name string) error {
	if s.url.Scheme != "file" {
		return nil
	}
	path := s.path(name)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// As fileblob names them.
	temporary := regexp.MustCompile("^" + regexp.QuoteMeta(filepath.Base(path)) + `\.[0-9a-f]+\.tmp$`)
	for _, e := range entries {
		if !temporary.MatchString(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// writeFile replaces the file of an object: it is whole and on disk before it gets its name.
func writeFile(ctx context.Context, bucket *blob.Bucket, d document) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File
	w, err := bucket.NewWriter(ctx, d.name, &blob.WriterOptions{
		ContentType: d.contentType,
		BeforeWrite: func(as func(any) bool) error {
			if !as(&file) {
				return errors.New("the directory has no files")
			}
			return file.Chmod(fileMode)
		},
	})
	if err != nil {
		return err
	}
	_, err = w.Write(d.data)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		cancel() // so that Close leaves the old file in place
	}
	// Crash here: the old file is whole, and a temporary one is left for the next sweep.
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(file.Name()))
}

// syncDirectory makes a renaming in the directory last.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
