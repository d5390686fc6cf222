package keydir

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

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
		SigningVersion: 1, RefreshHint: time.Hour, RotationRefreshHint: time.Second, MaxTokenExpiration: time.Hour, Keys: []Key{k},
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
