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
