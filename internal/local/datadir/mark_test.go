package datadir_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/lockfile/locktest"
)

func TestDirectoryOfOthersIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string) error
		err     string
	}{
		"with files": {func(string) error { return nil }, "has no keyturn.json"},
		"with a mark that is none": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "keyturn.json"), []byte(`{"id": "1"}`), 0o600)
		}, "is not the mark"},
		"with a link as its mark": {func(dir string) error {
			return os.Symlink("/etc/passwd", filepath.Join(dir, "keyturn.json"))
		}, "escapes"},
		"with a file named network": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "network"), []byte("our network"), 0o600)
		}, "has no keyturn.json"},
		"writable by others": {func(dir string) error { return os.Chmod(dir, 0o777) }, "others may write"},
		"of another user": {func(dir string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(dir, 0o777) // it cannot be given away
			}
			return os.Chown(dir, 12345, 0)
		}, "it belongs to user"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "images", "wedding.jpg")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := c.prepare(dir); err != nil {
			t.Fatal(err)
		}
		before := localtest.Tree(t, dir)
		d, err := datadir.Open(dir, netip.Prefix{}, true)
		if d != nil || err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
		if after := localtest.Tree(t, dir); after != before {
			t.Errorf("%s: it was\n%sis\n%s", name, before, after)
		}
	}
}

func TestDirectoryIsClaimedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var all sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		all.Go(func() {
			d := open(t, dir)
			if err := d.Claim(); err != nil {
				t.Error(err)
			}
			ids[i] = d.ID()
		})
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("ids are %q", ids)
		}
	}
}

// TestClaimWhileAnotherUserLocks has a user of the host lock the directory, which he can read.
func TestClaimWhileAnotherUserLocks(t *testing.T) {
	dir := locktest.Dir(t)
	locktest.LockAsNobody(t, dir)
	d := open(t, dir)
	if err := d.Claim(); err != nil || d.ID() == "" {
		t.Errorf("claiming: %v, id %q", err, d.ID())
	}
}
