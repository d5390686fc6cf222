package keydir_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/signer/keydir"
)

// TestReadDuringWrites reads all the time while the directory is replaced. Each set read must be one that was written,
// as a whole.
func TestReadDuringWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	sets := []keydir.Set{newSet(t, 1), newSet(t, 2), newSet(t, 3)}
	write(t, dir, sets[0])
	stop := make(chan struct{})
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				written <- nil
				return
			default:
				err = keydir.Write(dir, sets[i%len(sets)])
			}
		}
		written <- err
	}()
	for range 300 {
		got, _, err := keydir.Read(dir)
		if err != nil {
			t.Errorf("a directory that was never bad was: %v", err)
			break
		}
		if !equal(got, sets[len(got.Keys)-1]) {
			t.Error("parts of two sets were read as one")
		}
	}
	close(stop)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestReadSecretVolume reads what kubelet makes of a Secret: a world-writable sticky directory of links through ..data.
func TestReadSecretVolume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	set := newSet(t, 1)
	plain(t, filepath.Join(dir, "..2026_01_01"), set)
	data := filepath.Join(dir, "..2026_01_01")
	for _, name := range []string{keydir.ManifestName, "1.key", "1.pub"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(data, name), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..2026_01_01", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if got, _, err := keydir.Read(dir); err != nil || !equal(got, set) {
		t.Errorf("reading a Secret volume: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keydir.Read(dir); err == nil {
		t.Error("a directory in which anybody can swap the link was read")
	}
}

// TestReadRefusesVolume damages what is around the version that ..data leads to.
func TestReadRefusesVolume(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"..data to nowhere": {func(dir string) error { return relink(dir, "..v-nowhere") }, "..data: no such file"},
		"..data leads out":  {func(dir string) error { return relink(dir, "../elsewhere") }, "..data: path escapes"},
		"..data is a file": {func(dir string) error {
			return instead(filepath.Join(dir, "..data"), func(path string) error { return os.WriteFile(path, nil, 0o600) })
		}, "..data: not a directory"},
		"a writable version": {
			func(dir string) error { return os.Chmod(version(dir), 0o770) }, "its mode 0770 lets others write it",
		},
		"a sticky volume of another": {func(dir string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			return errors.Join(os.Chmod(dir, 0o777|os.ModeSticky), os.Chown(dir, other, other))
		}, "it belongs to user 65534"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			write(t, dir, newSet(t, 1))
			if err := test.damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, _, err := keydir.Read(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want it to say %q", err, test.want)
			}
		})
	}
}

func relink(dir, target string) error {
	return instead(filepath.Join(dir, "..data"), func(path string) error { return os.Symlink(target, path) })
}

// rename puts a directory in the place of the one that is there.
func rename(t *testing.T, dir string, set keydir.Set) {
	t.Helper()
	next := dir + ".next"
	plain(t, next, set)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, dir); err != nil {
		t.Fatal(err)
	}
}

// link puts a link in the place of the directory or link that is there.
func link(t *testing.T, dir string, set keydir.Set) {
	t.Helper()
	next := filepath.Join(t.TempDir(), "target")
	plain(t, next, set)
	if err := os.Symlink(next, dir+".link"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(dir+".link", dir); err != nil {
		t.Fatal(err)
	}
}

// through writes a set to the directory that a link leads to.
func through(t *testing.T, dir string, set keydir.Set) {
	t.Helper()
	target, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, target, set)
}

// TestWatch replaces the directory in every way that is allowed, and waits for the watcher to notice.
func TestWatch(t *testing.T) {
	type way = func(t *testing.T, dir string, set keydir.Set)
	asWritten := func(t *testing.T, dir string, set keydir.Set) { write(t, dir, set) }
	for name, ways := range map[string][]way{
		"written":                        {asWritten, asWritten, asWritten},
		"renamed":                        {rename, rename, rename},
		"linked":                         {link, link, link},
		"renamed and written":            {rename, rename, asWritten, rename, asWritten},
		"linked, and its target written": {link, through, link, through},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			ways[0](t, dir, newSet(t, 1))
			w, err := keydir.NewWatcher(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for i, replace := range ways[1:] {
				replace(t, dir, newSet(t, i+2))
				await(t, w, dir, i+2)
			}
		})
	}
}

// TestWatchOfATargetThatAppears has a link lead nowhere when the watch begins. The interval of Wait is what finds the
// target.
func TestWatchOfATargetThatAppears(t *testing.T) {
	dir, target := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "target")
	if err := os.Symlink(target, dir); err != nil {
		t.Fatal(err)
	}
	w, err := keydir.NewWatcher(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write(t, target, newSet(t, 1))
	w.Wait(t.Context(), time.Nanosecond)
	write(t, target, newSet(t, 2))
	await(t, w, dir, 2)
}

func TestWatchNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing", "keys")
	if _, err := keydir.NewWatcher(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("watching in a directory that is not there: %v", err)
	}
}

// TestWatchWithoutDescriptors cannot begin, since the process may open no more files.
func TestWatchWithoutDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := keydir.NewWatcher(dir)
	if errBack := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); errBack != nil {
		t.Fatal(errBack)
	}
	if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v, want %v, and the directory", err, unix.EMFILE)
	}
}

// TestWaitEnds waits for a directory that nobody changes, beside one that somebody does: until the interval has passed,
// and until the context ends.
func TestWaitEnds(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "keys")
	write(t, dir, newSet(t, 1))
	w, err := keydir.NewWatcher(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.Wait(t.Context(), time.Nanosecond)
	if err := os.WriteFile(filepath.Join(parent, "neighbour"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if w.Wait(ctx, time.Hour); ctx.Err() == nil {
		t.Error("Wait returned although nothing has changed")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// await waits until the directory is read with n keys, and reads only after Wait.
func await(t *testing.T, w *keydir.Watcher, dir string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		w.Wait(ctx, time.Hour)
		if ctx.Err() != nil {
			t.Fatalf("nobody said that the directory has %d keys", n)
		}
		if set, _, err := keydir.Read(dir); err == nil && len(set.Keys) == n {
			return
		}
	}
}
