package local

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// openHost opens a data directory, which the caller has made or not.
func openHost(t *testing.T, dir string) *Host {
	t.Helper()
	h, err := New(Options{DataDir: dir, Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// useAndDelete makes a user cluster's site in the data directory and then deletes all that Keyturn made in it.
func useAndDelete(t *testing.T, h *Host) {
	t.Helper()
	if _, err := h.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	if err := h.DeleteAdmin(t.Context(), DeleteAdminOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
}

func TestDataDirectoryIsMadeAndRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	h := openHost(t, dir)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was made before it was needed: %v", err)
	}
	if err := h.DeleteAdmin(t.Context(), DeleteAdminOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := h.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	if mode := fileMode(t, dir); mode != 0o700 {
		t.Errorf("its mode is %o", mode)
	}
	again := openHost(t, dir)
	if again.ID() == "" || again.ID() != h.ID() {
		t.Errorf("its id was %q, is %q", h.ID(), again.ID())
	}
	useAndDelete(t, h)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was not removed: %v", err)
	}
}

func TestEmptyDirectoryOfSomebodyStays(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	useAndDelete(t, openHost(t, dir))
	if mode := fileMode(t, dir); mode != 0o755 {
		t.Errorf("its mode became %o", mode)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left in it are %v, %v", entries, err)
	}
}

func TestDirectoryFromBeforeMarks(t *testing.T) {
	dir := t.TempDir()
	for path, content := range map[string]string{"network": "10.88.0.0/16\n", "images/pause.tar": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := openHost(t, dir)
	if err := h.DeleteAdmin(t.Context(), DeleteAdminOptions{}); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left in it are %v, %v", entries, err)
	}
}

func TestDirectoryOfOthersIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string) error
		err     string
	}{
		"with files": {func(string) error { return nil }, "has no keyturn.json"},
		"with a mark that is none": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, markFile), []byte(`{"id": "1"}`), 0o600)
		}, "is not the mark"},
		"with a link as its mark": {func(dir string) error {
			return os.Symlink("/etc/passwd", filepath.Join(dir, markFile))
		}, "escapes"},
		"with a file named network": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, networkFile), []byte("our network"), 0o600)
		}, "has no keyturn.json"},
		"writable by others": {func(dir string) error { return os.Chmod(dir, 0o777) }, "others may write"},
		"of another user": {func(dir string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(dir, 0o777) // it cannot be given away
			}
			return os.Chown(dir, 12345, 0)
		}, "hint: name"},
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
		before := tree(t, dir)
		h, err := New(Options{DataDir: dir, Loopback: true})
		if h != nil || err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
		if after := tree(t, dir); after != before {
			t.Errorf("%s: it was\n%sis\n%s", name, before, after)
		}
	}
}

// What was filled by somebody after it was opened is as foreign as what was filled before.
func TestDirectoryIsCheckedWhenItIsClaimed(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	_, errSite := h.EnsureSite("a.a", "")
	_, errLock := h.Lock()
	errDelete := h.DeleteAdmin(t.Context(), DeleteAdminOptions{})
	for what, err := range map[string]error{"EnsureSite": errSite, "Lock": errLock, "DeleteAdmin": errDelete} {
		if err == nil || !strings.Contains(err.Error(), "has no keyturn.json") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := tree(t, dir); after != before {
		t.Errorf("it was\n%sis\n%s", before, after)
	}
}

func TestDirectoryIsClaimedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var all sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		all.Go(func() {
			h := openHost(t, dir)
			if err := h.claim(); err != nil {
				t.Error(err)
			}
			ids[i] = h.ID()
		})
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("ids are %q", ids)
		}
	}
}

// tree lists all in a directory with its modes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			list.WriteString(info.Mode().String() + " " + path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}
