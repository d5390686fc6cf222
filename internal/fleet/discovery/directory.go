package discovery

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/keyturn/keyturn/internal/lockfile"
	"github.com/keyturn/keyturn/jwks"
)

// The modes that let a web server, which is another user, read the files.
const (
	fileMode      = 0o644
	directoryMode = 0o755
)

// directory is the directory of a file URL. Its owner may be another user, and the controller may be root. So it is
// opened one component after the other, without following symbolic links, and nothing is written where somebody else
// could replace it, or the path to it.
type directory struct {
	path   string // of the URL
	folder string // its prefix
	create bool   // whether to create the directory of the URL when something is written to it
}

var _ store = (*directory)(nil)

func newDirectory(u *url.URL) *directory {
	create, _ := strconv.ParseBool(u.Query().Get("create_dir"))
	return &directory{path: path.Clean(u.Path), folder: u.Query().Get("prefix"), create: create}
}

// get implements store.
func (d *directory) get(ctx context.Context, name string) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, err // file operations do not check ctx
	}
	at, err := d.enter(name, false)
	if err == nil {
		defer at.Close()
		var o object
		if o, err = readFile(at, path.Base(name)); err == nil {
			return o, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) && (d.create || d.exists()) {
		return object{}, nil
	}
	return object{}, fmt.Errorf("reading %s: %w", name, err)
}

func (d *directory) exists() bool {
	_, err := os.Lstat(d.path)
	return err == nil
}

// put implements store.
func (d *directory) put(ctx context.Context, doc document, was object) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := d.enter(doc.name, true)
	if err == nil {
		defer at.Close()
		err = errors.Join(sweep(at, path.Base(doc.name)), exchange(at, path.Base(doc.name), doc.data, was))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", doc.name, err)
	}
	return nil
}

// lockName is the file that controllers lock while they write to its directory.
const lockName = ".keyturn.lock"

// exchange replaces a file if it has not changed since it was read. Controllers hold a lock meanwhile. Everybody may
// read the directory, and so could lock it.
func exchange(at *os.Root, name string, data []byte, was object) (err error) {
	lock, err := lockfile.Try(at, lockName)
	if err != nil {
		return fmt.Errorf("locking the directory, to which another controller may be writing: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	is, err := readFile(at, name)
	if err := ignoreMissing(err); err != nil {
		return err
	}
	if is.found != was.found || !bytes.Equal(is.data, was.data) {
		return errors.New("somebody else has changed it since it was read")
	}
	return replaceFile(at, name, data)
}

// delete implements store.
func (d *directory) delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := d.enter(name, false)
	if err == nil {
		defer at.Close()
		err = errors.Join(at.Remove(path.Base(name)), sweep(at, path.Base(name)), dropLock(at))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

// enter opens the directory of an object. For writing, it creates missing directories, and refuses unsafe ones.
func (d *directory) enter(name string, write bool) (*os.Root, error) {
	at, err := os.OpenRoot("/")
	if err != nil {
		return nil, err
	}
	base, full := strings.Count(d.path, "/"), path.Join(d.path, d.folder, path.Dir(name))
	for i, part := range strings.Split(full, "/")[1:] {
		step := walk{write: write, make: write && (i >= base || d.create), inside: i >= base-1}
		next, err := step.into(at, part)
		_ = at.Close()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// walk is how one directory on the way to an object is opened.
type walk struct {
	// write opens it for writing in it or below it, and make creates it if it is missing.
	write, make bool
	// inside is for the directory of the URL and what is below it: nobody else may add files there. In the directories
	// above, others may, as in /tmp.
	inside bool
}

func (w walk) into(parent *os.Root, name string) (*os.Root, error) {
	made := false
	if w.make {
		// Others may enter only when it is known to be ours.
		err := parent.Mkdir(name, 0o700)
		if made = err == nil; err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	next, err := openDirectory(parent, name)
	if err != nil {
		return nil, err
	}
	if err = w.check(next); err == nil && made {
		err = open(next)
	}
	if err != nil {
		_ = next.Close()
		return nil, err
	}
	return next, nil
}

// openDirectory opens a directory, but nothing that a symbolic link points to.
func openDirectory(parent *os.Root, name string) (*os.Root, error) {
	full := path.Join(parent.Name(), name)
	want, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !want.IsDir() {
		return nil, fmt.Errorf("%s is not a directory: no symbolic link is followed", full)
	}
	next, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if is, err := next.Stat("."); err != nil || !os.SameFile(is, want) {
		return nil, errors.Join(fmt.Errorf("%s was replaced while it was opened", full), err, next.Close())
	}
	return next, nil
}

// check refuses a directory in which somebody else could replace what is written.
func (w walk) check(at *os.Root) error {
	if !w.write {
		return nil
	}
	info, err := at.Stat(".")
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", at.Name())
	}
	if owner := int(stat.Uid); owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, who could replace what is written: only root and user %d may own it",
			at.Name(), owner, os.Geteuid())
	}
	const others = 0o022
	if mode := info.Mode(); mode.Perm()&others != 0 && (w.inside || mode&fs.ModeSticky == 0) {
		return fmt.Errorf("users other than its owner may write to %s (mode %v): run chmod go-w on it", at.Name(),
			mode)
	}
	return nil
}

// open lets others into a new directory, regardless of the umask.
func open(at *os.Root) error {
	f, err := at.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(directoryMode), f.Close())
}

// readFile reads the file of an object.
func readFile(at *os.Root, name string) (object, error) {
	want, err := at.Lstat(name)
	if err != nil {
		return object{}, err
	}
	if !want.Mode().IsRegular() {
		return object{}, fmt.Errorf("%s is not a file: no symbolic link is followed", name)
	}
	f, err := at.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return object{}, err
	}
	defer f.Close()
	is, err := f.Stat()
	if err != nil || !os.SameFile(is, want) {
		return object{}, errors.Join(fmt.Errorf("%s was replaced while it was opened", name), err)
	}
	data, err := io.ReadAll(io.LimitReader(f, jwks.MaxSize+1))
	return object{found: true, modified: is.ModTime(), data: data}, err
}

// replaceFile writes the file of an object atomically: it is whole and on disk before it gets its name.
func replaceFile(at *os.Root, name string, data []byte) error {
	temporary := name + "." + random() + ".tmp"
	f, err := at.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(fileMode), f.Sync(), f.Close())
	// A crash here leaves the old file whole, and a temporary one for the next sweep.
	if err == nil {
		err = at.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(at.Remove(temporary)))
	}
	return syncDirectory(at)
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// sweep removes the temporary files of processes that were killed while they wrote an object. They hold old public
// keys.
func sweep(at *os.Root, name string) error {
	entries, err := fs.ReadDir(at.FS(), ".")
	if err != nil {
		return err
	}
	temporary := regexp.MustCompile("^" + regexp.QuoteMeta(name) + `\.[0-9a-f]+\.tmp$`)
	for _, e := range entries {
		if !temporary.MatchString(e.Name()) {
			continue
		}
		if err := ignoreMissing(at.Remove(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// dropLock removes the lock of a controller that was killed. Deleting needs no lock, and one that is held is not an
// error.
func dropLock(at *os.Root) error {
	if _, err := at.Lstat(lockName); err != nil {
		return ignoreMissing(err)
	}
	lock, err := lockfile.Try(at, lockName)
	if errors.Is(err, lockfile.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	return lock.Unlock()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncDirectory makes a rename in the directory durable.
func syncDirectory(at *os.Root) error {
	d, err := at.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
