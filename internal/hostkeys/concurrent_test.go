package hostkeys

import (
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
)

// opaque is a key in hardware.
type opaque struct{ crypto.Signer }

// writerDir is set in the processes that TestConcurrentWriters starts.
const writerDir = "HOSTKEYS_TEST_DIR"

// TestConcurrentWriters has several processes write keys of random stages, as controllers that know nothing of each other would.
// A reader must never see the stage go back, and always find the keys that are named.
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

// writeAtRandom writes until the last stage was written, and checks each time that what was written stays or becomes more.
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
		"configuring": s.Configure(files(1, 1, 2), testKeys), "repairing": s.Repair(testKeys), "tidying": s.Tidy(rotation.Keys{}),
		"removing the signer": s.RemoveSigner(), "configuring the manager": m.Configure(2, testKeys), "tidying the manager's": m.Tidy(1),
	} {
		if !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if held, err := s.Configured(); err != nil || !held.Equal(files(1, 1)) || len(snapshot(t, s.Dir)) != len(was) {
		t.Errorf("configured: %v, %v", held, err)
	}
}
