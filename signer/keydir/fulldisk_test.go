package keydir_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/signer/keydir"
)

// TestFullDisk writes a set to a disk without room for it: the old one stays whole, and the next try succeeds once
// there is room.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small disk needs root")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
		t.Skipf("no small disk can be had here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir, filler := filepath.Join(disk, "keys"), filepath.Join(disk, "filler")
	old, next := newSet(t, 1), newSet(t, 2)
	write(t, dir, old)
	fill(t, filler)

	if err := keydir.Write(dir, next); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing to a full disk: %v, want %v", err, unix.ENOSPC)
	}
	if got, _, err := keydir.Read(dir); err != nil || !equal(got, old) {
		t.Errorf("the old set is not whole: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	write(t, dir, next)
	if got, _, err := keydir.Read(dir); err != nil || !equal(got, next) {
		t.Errorf("the next set is not there: %v", err)
	}
}

// fill writes a file until no byte more fits on its disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
