package keydir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/signer/keydir"
)

// TestFullDisk writes a set to a disk without room for it: the old one stays whole, and the next try succeeds once
// there is room.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, "size=128k,mode=0700")
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
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v is in the directory (%v), want ..data and the old version", entries, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	write(t, dir, next)
	if got, _, err := keydir.Read(dir); err != nil || !equal(got, next) {
		t.Errorf("the next set is not there: %v", err)
	}
}

// TestFullOfFiles writes a set to a disk that takes only some of the files and directories that a set needs, and last
// to one that takes all but the link to them.
func TestFullOfFiles(t *testing.T) {
	const one = 7 // for the disk, the directory, ..data, and a version with three files
	for inodes := one; inodes <= one+4; inodes++ {
		dir := filepath.Join(smallDisk(t, fmt.Sprintf("nr_inodes=%d,mode=0700", inodes)), "keys")
		old := newSet(t, 1)
		write(t, dir, old)
		if err := keydir.Write(dir, newSet(t, 1)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("a disk of %d inodes: %v, want %v", inodes, err, unix.ENOSPC)
		}
		if got, _, err := keydir.Read(dir); err != nil || !equal(got, old) {
			t.Errorf("a disk of %d inodes: the old set is not whole: %v", inodes, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("a disk of %d inodes: %v is in the directory (%v), want ..data and a version", inodes, entries, err)
		}
	}
}

// smallDisk mounts a file system in memory, and returns its path.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a small disk needs root")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, options); err != nil {
		t.Skipf("no small disk can be had here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk
}

// TestWriteCannotRemove has a file system mounted in the directory, where something is to be removed: the error names
// it, and the old set stays whole until the new one is.
func TestWriteCannotRemove(t *testing.T) {
	old, next := newSet(t, 1), newSet(t, 2)
	for name, test := range map[string]struct{ write, left keydir.Set }{
		"..v-link":  {next, old}, // for the link that ..data becomes
		"left":      {next, next},
		"left over": {old, old}, // nothing else is to be written
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			write(t, dir, old)
			mounted := filepath.Join(dir, name)
			if err := os.Mkdir(mounted, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, "size=64k"); err != nil {
				t.Skipf("no file system can be mounted here: %v", err)
			}
			unmount := func() error { return unix.Unmount(mounted, unix.MNT_DETACH) }
			t.Cleanup(func() { _ = unmount() })
			if err := keydir.Write(dir, test.write); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, want it to say that %s is busy", err, name)
			}
			if got, _, err := keydir.Read(dir); err != nil || !equal(got, test.left) {
				t.Errorf("another set is left, or none: %v", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
				t.Errorf("%v is in the directory (%v), want ..data, a version and %s", entries, err, name)
			}
			if err := unmount(); err != nil {
				t.Fatal(err)
			}
			write(t, dir, test.write)
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
				t.Errorf("%v is in the directory (%v), want ..data and a version", entries, err)
			}
		})
	}
}

// TestWriteCannotReplaceADirectory has a file system mounted where ..data is to be.
func TestWriteCannotReplaceADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	data := filepath.Join(dir, "..data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(data, unix.MNT_DETACH) })
	if err := keydir.Write(dir, newSet(t, 1)); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "..data") {
		t.Errorf("%v, want it to say that ..data is busy", err)
	}
}

// TestWriteOfALongName names a file for the PIN that no file system takes.
func TestWriteOfALongName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	set := newSet(t, 1)
	write(t, dir, set)
	long := newSet(t, 1)
	long.Keys[0].Private, long.Keys[0].PIN = nil, keydir.Secret("1")
	long.Keys[0].PKCS11 = "pkcs11:token=t;object=o?pin-source=" + strings.Repeat("p", 300)
	if err := keydir.Write(dir, long); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%v, want %v", err, unix.ENAMETOOLONG)
	}
	if got, _, err := keydir.Read(dir); err != nil || !equal(got, set) {
		t.Errorf("the old set is not whole: %v", err)
	}
}

// TestWriteBelowAFile has a file where the parent of the directory is to be.
func TestWriteBelowAFile(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "parent")
	if err := os.WriteFile(parent, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keydir.Write(filepath.Join(parent, "keys"), newSet(t, 1)); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v, want %v", err, unix.ENOTDIR)
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
