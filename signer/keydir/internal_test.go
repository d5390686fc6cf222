package keydir

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func oneKey(t *testing.T) Set {
	t.Helper()
	private, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewKey(1, private)
	if err != nil {
		t.Fatal(err)
	}
	return Set{
		SigningVersion: 1, RefreshHint: time.Hour, RotationRefreshHint: time.Second, MaxTokenExpiration: time.Hour,
		Keys: []Key{k},
	}
}

// TestReplacedWhileRead replaces the directory after it was opened: what fails then is no fault of the directory.
func TestReplacedWhileRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	root, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readFrom(root, dir, Digest{}); !errors.Is(err, errReplaced) {
		t.Errorf("replaced: %v, want %v", err, errReplaced)
	}
	again, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := os.Truncate(filepath.Join(dir, dataLink, "1.key"), 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readFrom(again, dir, Digest{}); err == nil || errors.Is(err, errReplaced) {
		t.Errorf("damaged: %v, want another error than %v", err, errReplaced)
	}
}

// TestReplacedWhileOpened has ..data lead elsewhere than a moment before: if the new version is gone too, it is no
// fault of the directory.
func TestReplacedWhileOpened(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	check := func(when, target string, want error) {
		t.Helper()
		version, err := openVersion(root, target)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", when, err, want)
		}
		if version != nil {
			_ = version.Close()
		}
	}
	check("no ..data", "..v-old", fs.ErrNotExist)
	if err := root.Symlink("..v-new", dataLink); err != nil {
		t.Fatal(err)
	}
	check("replaced, and gone", "..v-old", errReplaced)
	check("not replaced, and gone", "..v-new", fs.ErrNotExist)
	if err := root.Mkdir("..v-new", 0o700); err != nil {
		t.Fatal(err)
	}
	check("replaced, and there", "..v-old", nil)
}

// TestMovedWhileRead moves the directory away after it was opened.
func TestMovedWhileRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	_, known, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	written, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close()
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readFrom(written, dir, known); !errors.Is(err, ErrUnchanged) {
		t.Errorf("moved, and as it is known: %v, want %v", err, ErrUnchanged)
	}
	if err := os.Truncate(filepath.Join(dir+".moved", dataLink, "1.key"), 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readFrom(written, dir, Digest{}); !errors.Is(err, errReplaced) {
		t.Errorf("damaged and moved: %v, want %v", err, errReplaced)
	}
}

// TestTakeOnlyWhatIsNamed has a link lead to another directory after the right one was checked.
func TestTakeOnlyWhatIsNamed(t *testing.T) {
	parent := t.TempDir()
	dir, foreign := filepath.Join(parent, "keys"), filepath.Join(parent, "foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(foreign, dir); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := take(root, dir); !errors.Is(err, errReplaced) {
		t.Errorf("%v, want %v", err, errReplaced)
	}
	if info, err := os.Stat(foreign); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the mode of the other directory is %v, %v", info.Mode(), err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := take(root, dir); !errors.Is(err, errReplaced) {
		t.Errorf("nothing is there: %v, want %v", err, errReplaced)
	}
}

// TestFailedReadingIsWiped reads what is known already, and a set that is not valid: nothing of it stays in memory.
func TestFailedReadingIsWiped(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	_, known, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	read := func(known Digest) (private []byte, err error) {
		root, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		r := &reader{root: root, files: map[string][]byte{}}
		_, err = r.read(known)
		return r.files["1.key"], err
	}
	want := func(when string, private []byte, err error) {
		t.Helper()
		if err == nil || len(private) == 0 || slices.Max(private) != 0 {
			t.Errorf("%s: %v, and the private key is not overwritten", when, err)
		}
	}
	private, err := read(known)
	want("known", private, err)
	other, err := jwks.MarshalPublicKey(oneKey(t).Keys[0].Public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, dataLink, "1.pub"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	private, err = read(known)
	want("with another public key", private, err)
}

// TestSharedFileIsReadOnce loads a file that two keys name: one copy of it is in memory.
func TestSharedFileIsReadOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	root, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	r := &reader{root: root, files: map[string][]byte{}}
	if err := r.load("1.key", secret); err != nil {
		t.Fatal(err)
	}
	first, digest := r.files["1.key"], r.digest()
	if err := r.load("1.key", secret); err != nil || &r.files["1.key"][0] != &first[0] || r.digest() != digest {
		t.Errorf("it was read again, %v", err)
	}
}

// TestFileThatEndsEarly reads a file of sysfs. It is shorter than its size, as one that is truncated while it is read.
func TestFileThatEndsEarly(t *testing.T) {
	const name = "uevent_seqnum"
	root, err := os.OpenRoot("/sys/kernel")
	if err != nil {
		t.Skip(err)
	}
	defer root.Close()
	if info, err := root.Stat(name); err != nil || notWritable.check(info) != nil || info.Size() == 0 {
		t.Skipf("%s: %v, %v", name, info, err)
	}
	r := &reader{root: root, files: map[string][]byte{}}
	if err := r.load(name, notWritable); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), name) {
		t.Errorf("%v, want %v, and the name of the file", err, io.ErrUnexpectedEOF)
	}
}

// TestLinkIsNeverGone follows what Write does to ..data: at no time is there none.
func TestLinkIsNeverGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, oneKey(t)); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case err := <-w.Errors:
			t.Fatal(err)
		case e := <-w.Events:
			switch {
			case filepath.Base(e.Name) != dataLink:
			case e.Has(fsnotify.Remove):
				t.Fatal("it was removed before it was replaced")
			case e.Has(fsnotify.Create):
				return
			}
		}
	}
}

// TestLostEvents has the kernel report that it dropped events: the directory may have changed.
func TestLostEvents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	w, err := NewWatcher(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() { w.notify.Errors <- fsnotify.ErrEventOverflow }()
	w.Wait(t.Context(), time.Hour)
}
