package hostkeys

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/rotation"
)

// opaque is a key in hardware.
type opaque struct{ crypto.Signer }

// writerDir is set in the processes that TestConcurrentWriters starts.
const writerDir = "HOSTKEYS_TEST_DIR"

// TestConcurrentWriters has several processes write keys of random stages, as controllers that know nothing of each
// other would. A reader must never see the stage go back, and always find the keys that are named.
func TestConcurrentWriters(t *testing.T) {
	if dir := os.Getenv(writerDir); dir != "" {
		writeAtRandom(t, APIServer{Dir: dir, SignerDir: dir + "-signer"})
		return
	}
	dir := filepath.Join(t.TempDir(), "keys")
	s := APIServer{Dir: dir}
	ended := make(chan error)
	const writers = 4
	for range writers {
		go func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestConcurrentWriters$", "-test.count=1")
			cmd.Env = append(os.Environ(), writerDir+"="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			ended <- err
		}()
	}
	last := 0
	for running := writers; running > 0; {
		select {
		case err := <-ended:
			running--
			if err != nil {
				t.Error(err)
			}
		default:
		}
		held, err := s.Configured()
		must(t, err)
		if held.Stage() < last {
			t.Fatalf("stage %d came after stage %d", held.Stage(), last)
		}
		last = held.Stage()
	}
	if want := stages[len(stages)-1]; last != want.Stage() {
		t.Errorf("the stage in the end is %d, want %d", last, want.Stage())
	}
}

// writeAtRandom writes until the last stage was written, and checks each time that what was written stays or becomes
// more.
func writeAtRandom(t *testing.T, s APIServer) {
	for done := false; !done; {
		// Mostly stages that are near: so there are many changes before the last.
		held, err := s.Configured()
		must(t, err)
		i := max(0, min(len(stages)-1, held.Stage()-3+rand.IntN(4)-2))
		err = s.Configure(stages[i], testKeys)
		if err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		if err == nil {
			is, err := s.Configured()
			must(t, err)
			if is.Stage() < stages[i].Stage() {
				t.Fatalf("stage %d is configured after %d was written", is.Stage(), stages[i].Stage())
			}
			done = i == len(stages)-1
		}
	}
}

func TestLockedDirectory(t *testing.T) {
	s, m := newServer(t), newManager(t)
	must(t, s.Configure(files(1, 1), testKeys), m.Configure(1, testKeys))
	for _, dir := range []string{s.Dir, m.Dir} {
		other, err := openDisk(dir)
		must(t, err, other.lock())
		defer func() { must(t, other.close()) }()
	}
	was := snapshot(t, s.Dir)
	for what, err := range map[string]error{
		"configuring":             s.Configure(files(1, 1, 2), testKeys),
		"repairing":               s.Repair(testKeys),
		"tidying":                 s.Tidy(rotation.Keys{}),
		"removing the signer":     s.RemoveSigner(),
		"configuring the manager": m.Configure(2, testKeys),
		"tidying the manager's":   m.Tidy(1),
	} {
		if !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if held, err := s.Configured(); err != nil || !held.Equal(files(1, 1)) || len(snapshot(t, s.Dir)) != len(was) {
		t.Errorf("configured: %v, %v", held, err)
	}
}

// TestLockIsGivenUp has a child process hold a copy of the directory's file, as one that is just being started does.
func TestLockIsGivenUp(t *testing.T) {
	s := newServer(t)
	copies := 0
	s.fault = func(d disk) disk {
		fd, err := unix.Dup(int(d.(*rootDisk).self.Fd()))
		must(t, err)
		t.Cleanup(func() { must(t, unix.Close(fd)) })
		copies++
		return d
	}
	must(t, s.Configure(files(1, 1), testKeys), s.Configure(files(1, 1, 2), testKeys), s.Tidy(files(1, 1, 2)))
	if copies != 3 {
		t.Errorf("the directory was opened %d times", copies)
	}
}

// full is a disk on which only half of a file fits.
type full struct{ disk }

func (f full) create(name, like string, content []byte) error {
	return errors.Join(f.disk.create(name, like, content[:len(content)/2]), unix.ENOSPC)
}

func TestFullDisk(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys))
	was := snapshot(t, s.Dir)
	small := s
	small.fault = func(d disk) disk { return full{d} }
	if err := small.Configure(files(1, 1, 2), testKeys); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if is := snapshot(t, s.Dir); !maps.Equal(was, is) {
		t.Errorf("left: %q", is)
	}
	must(t, small.Configure(files(1, 1), testKeys)) // what is there needs no room
	must(t, s.Configure(files(1, 1, 2), testKeys))
	s.wantKeys(t, files(1, 1, 2))
}
