package hostkeys

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
)

var errCrash = errors.New("crashed")

// crash is how the machine or the process ends.
type crash struct {
	// step is the write in which it does, counted from 1; 0: after the last one.
	step int
	// how is what is on disk then.
	how string
}

// The ways to end.
const (
	before   = "before the write"
	half     = "half of the file written"
	after    = "after the write"
	powerCut = "power cut after the write, all that was not synced is lost"
	tornCut  = "power cut after the write, all that was not synced is lost but the last write"
)

var ways = []string{before, half, after, powerCut, tornCut}

// crashing is a disk that crashes. After that nothing is written.
type crashing struct {
	disk
	crash
	t     *testing.T
	steps int
	// undo takes back what was not synced, the latest last.
	undo []func() error
}

func (c *crashing) write(name string, do, undo func() error) error {
	if c.crashed() {
		return errCrash
	}
	c.steps++
	if c.steps == c.step && (c.how == before || c.how == half && name != "create") {
		return errCrash
	}
	if err := do(); err != nil {
		return err
	}
	c.undo = append(c.undo, undo)
	if name == "sync" {
		c.undo = nil
	}
	if c.steps != c.step {
		return nil
	}
	c.lose()
	return errCrash
}

// crashed reports whether the machine has stopped.
func (c *crashing) crashed() bool { return c.step > 0 && c.steps >= c.step }

// lose takes from the disk what a power cut takes.
func (c *crashing) lose() {
	lost := c.undo
	switch {
	case c.how == tornCut && len(lost) > 0:
		lost = lost[:len(lost)-1]
	case c.how != powerCut:
		return
	}
	for _, undo := range slices.Backward(lost) {
		if err := undo(); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *crashing) create(name, like string, content []byte) error {
	if c.steps+1 == c.step && c.how == half {
		content = content[:len(content)/2]
	}
	create := func() error { return c.disk.create(name, like, content) }
	return c.write("create", create, func() error { return discard(c.disk, name) })
}

func (c *crashing) rename(from, to string) error {
	content, err := c.read(from)
	if err != nil {
		return err
	}
	restore := c.restore(to)
	return c.write("rename", func() error { return c.disk.rename(from, to) }, func() error {
		return errors.Join(restore(), c.disk.create(from, from, content))
	})
}

func (c *crashing) remove(name string) error {
	if _, err := c.read(name); err != nil {
		return err
	}
	restore := c.restore(name)
	return c.write("remove", func() error { return c.disk.remove(name) }, restore)
}

func (c *crashing) sync() error {
	return c.write("sync", c.disk.sync, func() error { return nil })
}

// restore gives a file the content that it has now.
func (c *crashing) restore(name string) func() error {
	content, err := c.read(name)
	there := err == nil
	return func() error {
		if err := discard(c.disk, name); err != nil || !there {
			return err
		}
		return c.disk.create(name, name, content)
	}
}

// crashAt calls do with a disk that crashes, and reports how many writes it did until then.
func crashAt(t *testing.T, at crash, do func(fault func(disk) disk) error) int {
	t.Helper()
	steps := 0
	disks := []*crashing{}
	err := do(func(d disk) disk {
		for _, last := range disks {
			steps = last.steps
		}
		c := &crashing{disk: d, crash: at, t: t, steps: steps}
		disks = append(disks, c)
		return c
	})
	last := disks[len(disks)-1]
	if last.crashed() != errors.Is(err, errCrash) {
		t.Fatalf("%+v: %d writes, %v", at, last.steps, err)
	}
	if !last.crashed() && err != nil {
		t.Fatal(err)
	}
	if !last.crashed() {
		last.lose()
	}
	return last.steps
}

// everyCrash calls test for a crash in each write, in each way, and for a power cut after the last.
func everyCrash(t *testing.T, test func(t *testing.T, at crash) (steps int)) {
	t.Helper()
	writes := 0
	for _, how := range ways {
		for step := 1; ; step++ {
			steps := 0
			t.Run(fmt.Sprintf("%d, %s", step, how), func(t *testing.T) { steps = test(t, crash{step, how}) })
			if steps < step {
				break // it crashed in none of its writes
			}
			writes++
		}
	}
	t.Run("power cut at the end", func(t *testing.T) { test(t, crash{0, powerCut}) })
	if writes < len(ways) {
		t.Errorf("only %d writes", writes)
	}
}

func TestCrashOfAnAPIServersKeys(t *testing.T) {
	for _, c := range []struct{ from, to rotation.Keys }{
		{rotation.Keys{}, files(1, 1)},
		{files(1, 1), files(1, 1, 2)},
		{files(1, 1, 2), files(2, 1, 2)},
		{files(2, 1, 2), files(2, 2)},
		{files(1, 1), external(1, 1)},
		{external(1, 1), external(1, 1, 2)},
		{external(2, 1, 2), external(2, 2)},
		{external(2, 2), files(2, 2)},
		{rotation.Keys{}, external(1, 1)},
		{files(1, 1), files(2, 2)},
	} {
		t.Run(fmt.Sprintf("%v to %v", c.from, c.to), func(t *testing.T) {
			t.Parallel()
			everyCrash(t, func(t *testing.T, at crash) int { return crashServer(t, at, c.from, c.to) })
		})
	}
}

// crashServer crashes while an API server gets other keys, and expects it to have the ones before or the ones after,
// and the next call to finish.
func crashServer(t *testing.T, at crash, from, to rotation.Keys) int {
	s := newServer(t)
	if !from.IsZero() {
		must(t, s.Configure(from, testKeys), s.Tidy(from))
	}
	change := func(s APIServer) error {
		if err := s.Configure(to, testKeys); err != nil {
			return err
		}
		return s.Tidy(to)
	}
	steps := crashAt(t, at, func(fault func(disk) disk) error {
		faulty := s
		faulty.fault = fault
		return change(faulty)
	})
	held, err := s.Configured()
	must(t, err)
	if served, ok := s.Served(); ok && served.Stage() > held.Stage() {
		t.Errorf("the signer is ahead with %v, and %v is configured", served, held)
	}
	switch {
	case at.step == 0 && !held.Equal(to):
		t.Errorf("it was written, and %v is there after the power cut", held)
	case !held.Equal(from) && !held.Equal(to):
		t.Errorf("%v is configured, want %v or %v", held, from, to)
	case !held.IsZero() && !held.External:
		s.wantKeys(t, held)
	case held.External:
		must(t, s.Repair(testKeys))
		s.wantKeys(t, held)
	}
	if at.step == 0 {
		wantOnlyKeysOf(t, s, to)
	}
	must(t, change(s))
	wantOnlyKeysOf(t, s, to)
	return steps
}

// wantOnlyKeysOf wants these keys to be on disk, and nothing else, once a signer that is not needed is removed.
func wantOnlyKeysOf(t *testing.T, s APIServer, k rotation.Keys) {
	t.Helper()
	s.wantKeys(t, k)
	names := []string{configuredFile}
	if !k.External {
		must(t, s.RemoveSigner())
		names = append(names, filesOf(k)...)
	}
	slices.Sort(names)
	wantFiles(t, s.Dir, names...)
	for version := 1; version <= len(testKeys); version++ {
		if version != k.Sign && (!k.External || !slices.Contains(k.Verify, version)) {
			wantNothingOf(t, filepath.Dir(s.SignerDir), version)
		}
	}
}

func TestCrashOfAKubeControllerManagersKey(t *testing.T) {
	for from := range 2 {
		everyCrash(t, func(t *testing.T, at crash) int { return crashManager(t, at, from) })
	}
}

func crashManager(t *testing.T, at crash, from int) int {
	m := newManager(t)
	if from > 0 {
		must(t, m.Configure(from, testKeys))
	}
	change := func(m ControllerManager) error {
		if err := m.Configure(from+1, testKeys); err != nil {
			return err
		}
		return m.Tidy(from + 1)
	}
	steps := crashAt(t, at, func(fault func(disk) disk) error {
		faulty := m
		faulty.fault = fault
		return change(faulty)
	})
	held, err := m.Configured()
	must(t, err)
	if held != from+1 && (held != from || at.step == 0) {
		t.Errorf("key version %d is configured, before it was %d", held, from)
	}
	if held > 0 {
		wantPrivate(t, m.PrivateKey(held), held)
	}
	must(t, change(m))
	wantFiles(t, m.Dir, configuredFile, privateKeyFile(from+1))
	return steps
}

// TestPowerCutAfterConfigure cuts the power when Configure has returned, and nobody has tidied.
func TestPowerCutAfterConfigure(t *testing.T) {
	for _, to := range []rotation.Keys{files(1, 1, 2), external(1, 1, 2)} {
		s := newServer(t)
		must(t, s.Configure(files(1, 1), testKeys))
		crashAt(t, crash{0, powerCut}, func(fault func(disk) disk) error {
			faulty := s
			faulty.fault = fault
			return faulty.Configure(to, testKeys)
		})
		if held, err := s.Configured(); err != nil || !held.Equal(to) {
			t.Errorf("%v was configured, and %v is there, %v", to, held, err)
		}
		s.wantKeys(t, to)
	}
	m := newManager(t)
	crashAt(t, crash{0, powerCut}, func(fault func(disk) disk) error {
		faulty := m
		faulty.fault = fault
		return faulty.Configure(1, testKeys)
	})
	if held, err := m.Configured(); err != nil || held != 1 {
		t.Errorf("key version 1 was configured, and %d is there, %v", held, err)
	}
}

// A deletion that was cut off before it was synced is synced by the next Tidy, which has nothing to delete any more.
func TestTidySyncsWhatItFindsDeleted(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys), s.Configure(files(1, 1), testKeys), s.Tidy(files(1, 1)))
	synced := false
	s.fault = func(d disk) disk { return &watched{d, &synced} }
	must(t, s.Tidy(files(1, 1)))
	if !synced {
		t.Error("not synced")
	}
}

type watched struct {
	disk
	synced *bool
}

func (w *watched) sync() error {
	*w.synced = true
	return w.disk.sync()
}
