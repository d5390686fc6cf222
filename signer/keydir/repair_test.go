package keydir_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/signer/keydir"
)

// other is a user that is neither root nor the one who runs the tests.
const other = 65534

// TestWriteRepairs spoils a directory in every way. The next Write must make Read accept it again, and leave nothing of
// what was there.
func TestWriteRepairs(t *testing.T) {
	data := func(dir string) string { return filepath.Join(dir, "..data") }
	key := func(dir string) string { return filepath.Join(data(dir), "1.key") }
	file := func(path string) error { return os.WriteFile(path, nil, 0o666) }
	fifo := func(path string) error { return unix.Mkfifo(path, 0o666) }
	deadLink := func(path string) error { return os.Symlink("..v-nowhere", path) }
	directory := func(path string) error { return os.MkdirAll(filepath.Join(path, "a", "b"), 0o700) }
	giveAway := func(path string) error {
		if os.Geteuid() != 0 {
			t.Skip("only root can give files away")
		}
		return os.Chown(path, other, other)
	}
	for name, spoil := range map[string]func(dir string) error{
		"gone":                  func(dir string) error { return os.RemoveAll(dir) },
		"writable by everybody": func(dir string) error { return os.Chmod(dir, 0o777) },
		"readable by group":     func(dir string) error { return os.Chmod(dir, 0o750) },
		"like a Secret volume":  func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"closed to its owner":   func(dir string) error { return os.Chmod(dir, 0o100) },
		"of another user":       func(dir string) error { return giveAway(dir) },
		"a file in its place": func(dir string) error {
			return instead(dir, file)
		},
		"a FIFO in its place": func(dir string) error {
			return instead(dir, fifo)
		},
		"a dead link for it": func(dir string) error {
			return instead(dir, deadLink)
		},
		"no ..data": func(dir string) error { return os.Remove(data(dir)) },
		"a file for ..data": func(dir string) error {
			return instead(data(dir), file)
		},
		"a directory for ..data": func(dir string) error {
			return instead(data(dir), directory)
		},
		"..data to nowhere": func(dir string) error {
			return instead(data(dir), deadLink)
		},
		"..data through another": func(dir string) error { return detour(dir) },
		"..data by way of a link": func(dir string) error {
			return errors.Join(os.Symlink(filepath.Base(version(dir)), filepath.Join(dir, "..v-a")), relink(dir, "..v-a"))
		},
		"a wide version":       func(dir string) error { return os.Chmod(version(dir), 0o777) },
		"a version of another": func(dir string) error { return giveAway(version(dir)) },
		"a key of another":     func(dir string) error { return giveAway(key(dir)) },
		"a short key":          func(dir string) error { return os.Truncate(key(dir), 10) },
		"an empty key":         func(dir string) error { return os.Truncate(key(dir), 0) },
		"a wide key":           func(dir string) error { return os.Chmod(key(dir), 0o644) },
		"a wide public key":    func(dir string) error { return os.Chmod(filepath.Join(data(dir), "1.pub"), 0o622) },
		"no public key":        func(dir string) error { return os.Remove(filepath.Join(data(dir), "1.pub")) },
		"a directory for a key": func(dir string) error {
			return instead(key(dir), directory)
		},
		"a FIFO for a key": func(dir string) error {
			return instead(key(dir), fifo)
		},
		"a file too many": func(dir string) error {
			return os.WriteFile(filepath.Join(data(dir), "2.key"), nil, 0o600)
		},
		"half a manifest": func(dir string) error {
			return os.Truncate(filepath.Join(data(dir), keydir.ManifestName), 9)
		},
		"..data and a strange file alone": func(dir string) error {
			return errors.Join(os.RemoveAll(version(dir)), os.WriteFile(filepath.Join(dir, "strange"), nil, 0o600))
		},
		"files side by side": func(dir string) error {
			return instead(dir, func(path string) error { plain(t, path, newSet(t, 2)); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			set := newSet(t, 1)
			write(t, dir, set)
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			write(t, dir, set)
			if got, _, err := keydir.Read(dir); err != nil || !equal(got, set) {
				t.Errorf("Read: %v", err)
			}
			checkOurs(t, dir)
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
				t.Errorf("%v is in the directory (%v), want ..data and a version", entries, err)
			}
			if entries, err := os.ReadDir(data(dir)); err != nil || len(entries) != 3 {
				t.Errorf("%v is in the version (%v), want keys.json and two files of a key", entries, err)
			}
		})
	}
}

// version returns the path that ..data leads to.
func version(dir string) string {
	target, _ := os.Readlink(filepath.Join(dir, "..data"))
	return filepath.Join(dir, target)
}

// instead removes what is at a path, and makes something else there.
func instead(path string, with func(path string) error) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return with(path)
}

// detour leads ..data to its version by way of another one.
func detour(dir string) error {
	if err := os.Mkdir(filepath.Join(dir, "..v-a"), 0o700); err != nil {
		return err
	}
	target := "..v-a/../" + filepath.Base(version(dir))
	return instead(filepath.Join(dir, "..data"), func(path string) error { return os.Symlink(target, path) })
}

// checkOurs wants everything in the directory to be this user's, and closed to others.
func checkOurs(t *testing.T, dir string) {
	t.Helper()
	for _, path := range files(t, dir) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil || int(stat.Uid) != os.Geteuid() {
			t.Errorf("%s belongs to user %d, %v", path, stat.Uid, err)
		}
		if info.Mode()&(os.ModeSymlink|0o077|os.ModeSticky|os.ModeSetgid) != 0 && info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
	}
}

// TestWriteLeavesOthersAlone has links lead to what is not the key directory's.
func TestWriteLeavesOthersAlone(t *testing.T) {
	for name, link := range map[string]string{
		"the directory": "keys", "the directory, named with a slash": "keys/", "..data": "keys/..data",
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir, foreign := filepath.Join(parent, "keys"), filepath.Join(parent, "foreign")
			named := dir
			if strings.HasSuffix(link, "/") {
				named += "/"
			}
			precious := filepath.Join(foreign, "precious")
			if err := os.MkdirAll(foreign, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(precious, []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
			set := newSet(t, 1)
			write(t, dir, set)
			at := filepath.Join(parent, link)
			if err := instead(at, func(path string) error { return os.Symlink(foreign, path) }); err != nil {
				t.Fatal(err)
			}
			write(t, named, set)
			if got, _, err := keydir.Read(dir); err != nil || !equal(got, set) {
				t.Errorf("Read: %v", err)
			}
			if raw, err := os.ReadFile(precious); err != nil || string(raw) != "precious" {
				t.Errorf("a file of somebody else: %q, %v", raw, err)
			}
			if info, err := os.Stat(foreign); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("a directory of somebody else: %v, %v", info.Mode(), err)
			}
		})
	}
}

// TestWriteRefusesForeignDirectory names a directory that was never a key directory.
func TestWriteRefusesForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := keydir.Write(dir, newSet(t, 1))
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "precious is in it") {
		t.Errorf("%v, want it to name the directory and the file", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the mode was changed to %v, %v", info.Mode(), err)
	}
	if len(files(t, dir)) != 2 {
		t.Errorf("the directory has %v now", files(t, dir))
	}
}

// TestWriteCannotTakeOver writes as a user who may not take a directory from its owner: the error names both.
func TestWriteCannotTakeOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := filepath.Join(t.TempDir(), "keys")
	set := newSet(t, 1)
	write(t, dir, set)
	openParents(t, dir)
	err := asUser(other, func() error { return keydir.Write(dir, set) })
	if err == nil || !strings.Contains(err.Error(), dir+": it belongs to user 0") {
		t.Errorf("%v, want it to name the directory and its owner", err)
	}
}

// TestWriteRepairsAsAnotherUser has a version that its owner, who is not root, may not open.
func TestWriteRepairsAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := filepath.Join(t.TempDir(), "keys")
	set := newSet(t, 1)
	write(t, dir, set)
	closed := version(dir)
	if err := instead(closed, func(path string) error { return os.Mkdir(path, 0) }); err != nil {
		t.Fatal(err)
	}
	openParents(t, dir)
	if err := errors.Join(os.Chown(dir, other, other), os.Chown(closed, other, other)); err != nil {
		t.Fatal(err)
	}
	var got keydir.Set
	err := asUser(other, func() (err error) {
		if err := keydir.Write(dir, set); err != nil {
			return err
		}
		got, _, err = keydir.Read(dir)
		return err
	})
	if err != nil || !equal(got, set) {
		t.Errorf("the set is not there: %v", err)
	}
}

// openParents lets every user reach a directory in a temporary one.
func openParents(t *testing.T, dir string) {
	t.Helper()
	for _, path := range []string{filepath.Dir(filepath.Dir(dir)), filepath.Dir(dir), dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// asUser calls do as another user. Only root can.
func asUser(uid uintptr, do func() error) error {
	failed := make(chan error)
	go func() {
		// Not unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			failed <- errno
			return
		}
		failed <- do()
	}()
	return <-failed
}
