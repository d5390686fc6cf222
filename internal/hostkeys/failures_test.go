package hostkeys

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/rotation"
)

// failing is a disk one of whose writes fails, and those after it do not.
type failing struct {
	disk
	// left is how many writes there are until that one.
	left *int
}

func (f failing) write(do func() error) error {
	if *f.left--; *f.left == 0 {
		return unix.EIO
	}
	return do()
}

func (f failing) create(name, like string, content []byte) error {
	return f.write(func() error { return f.disk.create(name, like, content) })
}

func (f failing) rename(from, to string) error {
	return f.write(func() error { return f.disk.rename(from, to) })
}

func (f failing) remove(name string) error {
	return f.write(func() error { return f.disk.remove(name) })
}

func (f failing) sync() error { return f.write(f.disk.sync) }

// TestFailedWritesAreReported has each write of each call fail, as the only one.
func TestFailedWritesAreReported(t *testing.T) {
	gone := func(path string) error { return os.RemoveAll(path) }
	for name, c := range map[string]struct {
		// before is what is done on a good disk, and do what is done on one that fails.
		before, do func(s APIServer, m ControllerManager) error
	}{
		"configuring": {
			before: func(s APIServer, _ ControllerManager) error { return s.Configure(files(1, 1), testKeys) },
			do:     func(s APIServer, _ ControllerManager) error { return s.Configure(files(2, 1, 2), testKeys) },
		},
		"configuring a signer": {
			before: func(s APIServer, _ ControllerManager) error { return s.Configure(external(1, 1), testKeys) },
			do:     func(s APIServer, _ ControllerManager) error { return s.Configure(external(1, 1, 2), testKeys) },
		},
		"repairing": {
			before: func(s APIServer, _ ControllerManager) error {
				return errors.Join(s.Configure(files(1, 1), testKeys), gone(s.PublicKey(1)), gone(s.PrivateKey(1)))
			},
			do: func(s APIServer, _ ControllerManager) error { return s.Repair(testKeys) },
		},
		"repairing a signer": {
			before: func(s APIServer, _ ControllerManager) error { return s.Configure(external(1, 1), testKeys) },
			do:     func(s APIServer, _ ControllerManager) error { return s.Repair(testKeys) },
		},
		"tidying": {
			before: func(s APIServer, _ ControllerManager) error {
				return errors.Join(s.Configure(files(1, 1), testKeys), s.Configure(files(2, 2), testKeys))
			},
			do: func(s APIServer, _ ControllerManager) error { return s.Tidy(files(2, 2)) },
		},
		"configuring the manager": {
			before: func(_ APIServer, m ControllerManager) error { return m.Configure(1, testKeys) },
			do:     func(_ APIServer, m ControllerManager) error { return m.Configure(2, testKeys) },
		},
		"tidying the manager's": {
			before: func(_ APIServer, m ControllerManager) error {
				return errors.Join(m.Configure(1, testKeys), m.Configure(2, testKeys))
			},
			do: func(_ APIServer, m ControllerManager) error { return m.Tidy(2) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			for step := 1; ; step++ {
				s, m := newServer(t), newManager(t)
				must(t, c.before(s, m))
				left := step
				fault := func(d disk) disk { return failing{d, &left} }
				s.fault, m.fault = fault, fault
				err := c.do(s, m)
				if left > 0 { // it has fewer writes
					must(t, err)
					break
				}
				if !errors.Is(err, unix.EIO) {
					t.Errorf("write %d failed: %v", step, err)
				}
			}
		})
	}
}

// TestSignerThatGetsNoKeys has the key directory of the signer be somebody else's.
func TestSignerThatGetsNoKeys(t *testing.T) {
	s := newServer(t)
	theirs := filepath.Join(s.SignerDir, "theirs")
	must(t, os.MkdirAll(s.SignerDir, 0o700), os.WriteFile(theirs, nil, 0o600))
	for what, err := range map[string]error{
		"configuring": s.Configure(external(1, 1), testKeys), "repairing": s.Repair(testKeys),
	} {
		if err == nil || !strings.Contains(err.Error(), s.SignerDir) {
			t.Errorf("%s: %v, want an error that names %s", what, err, s.SignerDir)
		}
	}
	must(t, os.Remove(theirs), s.Repair(testKeys))
	s.wantKeys(t, external(1, 1))
}

func TestSignerDirectoryThatStays(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(external(1, 1), testKeys), s.Configure(files(1, 1), testKeys))
	if err := unix.Mount("tmpfs", s.SignerDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(s.SignerDir, unix.MNT_DETACH)) })
	if err := s.RemoveSigner(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removing what cannot be removed: %v", err)
	}
}

// TestKeyOfAnotherKind has a key that no token is signed with. Nothing of it is written.
func TestKeyOfAnotherKind(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for _, k := range []rotation.Keys{files(1, 1), external(1, 1)} {
		s := newServer(t)
		err := s.Configure(k, []Key{{Version: 1, Signer: private}})
		if err == nil || !strings.Contains(err.Error(), "key version 1") {
			t.Errorf("%v: %v", k, err)
		}
		wantFiles(t, s.Dir)
	}
}

func TestHeld(t *testing.T) {
	s, m := newServer(t), newManager(t)
	server := func(when string, want ...int) {
		t.Helper()
		if got, err := s.Held(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: the API server holds %v (%v), want %v", when, got, err, want)
		}
	}
	manager := func(when string, want ...int) {
		t.Helper()
		if got, err := m.Held(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: the kube-controller-manager holds %v (%v), want %v", when, got, err, want)
		}
	}
	server("without a directory")
	manager("without a directory")
	must(t, s.Configure(files(2, 1, 2), testKeys), m.Configure(1, testKeys))
	server("with two versions, of which one signs", 2)
	manager("configured", 1)
	for _, name := range []string{"sa-10.key", "sa-9.key", "sa-08.key", "sa-7.pub", "sa-x.key", "sa-6.key.bak"} {
		must(t, os.WriteFile(filepath.Join(s.Dir, name), nil, 0o600), os.WriteFile(filepath.Join(m.Dir, name), nil, 0o600))
	}
	server("with other files", 2, 9, 10)
	manager("with other files", 1, 9, 10)
	must(t, s.Configure(external(2, 1, 2), testKeys))
	server("with a signer, and the files not yet deleted", 1, 2, 9, 10)
	must(t, s.Tidy(external(2, 1, 2)))
	server("with a signer", 1, 2)

	s.Dir, m.Dir = filepath.Join(m.Dir, configuredFile), filepath.Join(m.Dir, configuredFile)
	if _, err := s.Held(); err == nil || !strings.Contains(err.Error(), s.Dir) {
		t.Errorf("a file for the directory of an API server: %v", err)
	}
	if _, err := m.Held(); err == nil || !strings.Contains(err.Error(), m.Dir) {
		t.Errorf("a file for the directory of a kube-controller-manager: %v", err)
	}
}

// TestSmallDisk writes keys to a disk without room for them: what was there before stays, and nothing else.
func TestSmallDisk(t *testing.T) {
	s := newServer(t)
	disk := filepath.Dir(s.Dir)
	must(t, os.Mkdir(disk, 0o700))
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("no small disk can be had here: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	must(t, s.Configure(files(1, 1), testKeys))
	was := snapshot(t, s.Dir)
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if err := s.Configure(files(1, 1, 2), testKeys); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("configuring: %v, want %v", err, unix.ENOSPC)
	}
	if is := snapshot(t, s.Dir); !maps.Equal(was, is) {
		t.Errorf("left: %q", is)
	}
	must(t, os.Remove(filler), s.Configure(files(1, 1, 2), testKeys))
	s.wantKeys(t, files(1, 1, 2))
}

// TestOwnerThatCannotBeKept writes as a user who may not give files away.
func TestOwnerThatCannotBeKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	const nobody = 65534
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys))
	for dir := s.Dir; strings.Contains(dir, t.Name()); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Chown(s.Dir, nobody, nobody))
	for _, name := range []string{configuredFile, "sa-1.key"} {
		must(t, os.Chmod(filepath.Join(s.Dir, name), 0o644))
	}
	failed := make(chan error)
	go func() {
		// Not unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			failed <- errno
			return
		}
		failed <- s.Configure(files(1, 1, 2), testKeys)
	}()
	if err := <-failed; !errors.Is(err, unix.EPERM) {
		t.Errorf("root's configuration was replaced by one of another user: %v", err)
	}
	if held, err := s.Configured(); err != nil || !held.Equal(files(1, 1)) {
		t.Errorf("configured: %v, %v", held, err)
	}
}

func TestCreateReplacesNothing(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys))
	was := snapshot(t, s.Dir)
	d, err := openDisk(s.Dir)
	must(t, err)
	if err := d.create(configuredFile, configuredFile, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating what is there: %v", err)
	}
	must(t, d.close())
	if is := snapshot(t, s.Dir); !maps.Equal(was, is) {
		t.Errorf("left: %q", is)
	}
}

// unlistable is a disk whose names cannot be read.
type unlistable struct{ disk }

func (unlistable) names() ([]string, error) { return nil, unix.EIO }

// TestDirectoryThatCannotBeListed must not be taken for one that holds no keys.
func TestDirectoryThatCannotBeListed(t *testing.T) {
	s, m := newServer(t), newManager(t)
	must(t, s.Configure(files(1, 1), testKeys), m.Configure(1, testKeys))
	fault := func(d disk) disk { return unlistable{d} }
	s.fault, m.fault = fault, fault
	_, server := s.Held()
	_, manager := m.Held()
	for what, err := range map[string]error{
		"what an API server holds": server, "what a kube-controller-manager holds": manager,
		"tidying": s.Tidy(files(1, 1)), "tidying the manager's": m.Tidy(1),
	} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v, want %v", what, err, unix.EIO)
		}
	}
}

// TestDirectoryThatCannotBeMade has a file where a directory above it is to be.
func TestDirectoryThatCannotBeMade(t *testing.T) {
	s, m := newServer(t), newManager(t)
	must(t, os.WriteFile(filepath.Dir(s.Dir), nil, 0o600))
	m.Dir = s.Dir
	for what, err := range map[string]error{
		"an API server": s.Configure(files(1, 1), testKeys), "a kube-controller-manager": m.Configure(1, testKeys),
	} {
		if !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("the keys of %s: %v, want %v", what, err, unix.ENOTDIR)
		}
	}
}
