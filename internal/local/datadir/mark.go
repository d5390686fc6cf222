package datadir

import (
	"github.com/keyturn/keyturn/internal/hint"

	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// markFile exists in a data directory before anything else does, and until everything else is gone. Files in a
// directory without it are not Keyturn's.
const markFile = "keyturn.json"

// mark distinguishes a data directory from every other one, past and future. Zero: it has none yet.
type mark struct {
	// ID is random. Objects outside the directory, such as bridges, carry it, too.
	ID string `json:"id"`
	// Made means that Keyturn created the directory, and so removes it in the end.
	Made bool `json:"made,omitempty"`
}

// ID returns the ID of the data directory; empty as long as nothing was created in it.
func (d *Dir) ID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mark.ID
}

// readMark reads the mark of a data directory. It refuses a directory of another user, one that others may write to,
// and one with files that Keyturn did not create.
func (d *Dir) readMark() error {
	m, err := markOf(d.path)
	if err != nil {
		return fmt.Errorf("using data directory %s: %w", d.path, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mark = m
	return nil
}

// Claim creates the data directory and its mark, unless they exist. It is called before anything is created in it.
func (d *Dir) Claim() error {
	made, err := makeDataDir(d.path)
	if err != nil {
		return fmt.Errorf("making data directory: %w", err)
	}
	if err := d.readMark(); err != nil || d.ID() != "" {
		return err
	}
	raw, err := json.Marshal(mark{ID: randomID(), Made: made})
	if err != nil {
		return fmt.Errorf("encoding the mark of data directory %s: %w", d.path, err)
	}
	// Of several processes, one creates the mark. A lock on the directory would be anybody's who can read it. A crash
	// here leaves the directory empty or as an earlier version made it, and the next call marks it.
	if err := atomicfile.Create(d.Path(markFile), append(raw, '\n')); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.readMark()
}

// makeDataDir creates the directory with mode 0700, and reports whether it did not exist before.
func makeDataDir(dir string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return false, err
	}
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func markOf(path string) (mark, error) {
	dir, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, err
	}
	defer dir.Close()
	if err := checkOwner(dir); err != nil {
		return mark{}, err
	}
	raw, err := dir.ReadFile(markFile)
	if errors.Is(err, fs.ErrNotExist) {
		unmarked := checkUnmarked(dir)
		if unmarked == nil {
			return mark{}, nil
		}
		// A process that claimed the directory meanwhile wrote its mark before anything else.
		if raw, err = dir.ReadFile(markFile); errors.Is(err, fs.ErrNotExist) {
			return mark{}, unmarked
		}
	}
	if err != nil {
		return mark{}, err
	}
	var m mark
	if err := json.Unmarshal(raw, &m); err != nil || len(m.ID) != hex.EncodedLen(idSize) {
		return mark{}, fmt.Errorf("%s is not the mark of a data directory", markFile)
	}
	return m, nil
}

// checkOwner refuses a directory in which another user could replace what root, or this user, writes to.
func checkOwner(dir *os.Root) error {
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && int(owner.Uid) != os.Geteuid():
		return hint.Errorf("name a directory of your own by --data-dir", "it belongs to user %d", owner.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return hint.Errorf("name another directory by --data-dir",
			"others may write to it (mode %#o)", info.Mode().Perm())
	}
	return nil
}

// checkUnmarked accepts a directory without a mark only if it is empty or was created before there were marks.
func checkUnmarked(dir *os.Root) error {
	list, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer list.Close()
	names, err := list.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	// Remove the rest of a mark whose write was interrupted by a crash.
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "."+markFile+".") })
	if len(names) == 0 {
		return nil
	}
	if raw, err := dir.ReadFile(networkFile); err == nil {
		if _, err := parseNetwork(raw); err == nil {
			return nil
		}
	}
	return hint.Errorf("name a new or an empty directory by --data-dir",
		"it is not empty and has no %s, so what is in it is not Keyturn's", markFile)
}

// IsUnused reports whether nothing was ever created in the data directory.
func (d *Dir) IsUnused() (bool, error) {
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}

// madeInDataDir is what Keyturn creates in a data directory besides the admin cluster, in order of removal.
var madeInDataDir = []string{
	"clusters", "images", "sites.json", "sites.lock", networkFile, lockName, markFile,
}

// Remove removes what Keyturn created in the data directory, its mark last, and then the directory if Keyturn created
// it and nothing else is in it.
func (d *Dir) Remove(trash string) error {
	ours := []string{trash}
	for _, name := range madeInDataDir {
		ours = append(ours, d.Path(name))
	}
	for _, path := range ours {
		if err := removeTree(path); err != nil {
			return fmt.Errorf("removing %s: %w", path, err)
		}
	}
	d.mu.Lock()
	made := d.mark.Made
	d.mark = mark{}
	d.mu.Unlock()
	entries, err := os.ReadDir(d.path)
	if err != nil || len(entries) > 0 || !made {
		return err
	}
	return os.Remove(d.path)
}

const idSize = 16

func randomID() string {
	raw := make([]byte, idSize)
	_, _ = rand.Read(raw) // never fails: it crashes the program instead
	return hex.EncodeToString(raw)
}
