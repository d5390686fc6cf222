package admincluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/local/localtest"
)

// openDir opens a data directory, which the caller has made or not.
func openDir(t *testing.T, dir string) *Cluster {
	t.Helper()
	c, err := Open(Options{DataDir: dir, Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// useAndDelete makes a user cluster's site in the data directory and then deletes all that Keyturn made in it.
func useAndDelete(t *testing.T, c *Cluster) {
	t.Helper()
	if _, err := c.host.Data.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
}

func TestDataDirectoryIsMadeAndRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	c := openDir(t, dir)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was made before it was needed: %v", err)
	}
	if err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.host.Data.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	if mode := localtest.FileMode(t, dir); mode != 0o700 {
		t.Errorf("its mode is %o", mode)
	}
	again := openDir(t, dir)
	if again.host.Data.ID() == "" || again.host.Data.ID() != c.host.Data.ID() {
		t.Errorf("its id was %q, is %q", c.host.Data.ID(), again.host.Data.ID())
	}
	useAndDelete(t, c)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was not removed: %v", err)
	}
}

func TestEmptyDirectoryOfSomebodyStays(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	useAndDelete(t, openDir(t, dir))
	if mode := localtest.FileMode(t, dir); mode != 0o755 {
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
	c := openDir(t, dir)
	if err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left in it are %v, %v", entries, err)
	}
}

// What was filled by somebody after it was opened is as foreign as what was filled before.
func TestDirectoryIsCheckedWhenItIsClaimed(t *testing.T) {
	dir := t.TempDir()
	c := openDir(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := localtest.Tree(t, dir)
	_, errSite := c.host.Data.EnsureSite("a.a", "")
	_, errLock := c.host.Data.Lock()
	errDelete := c.Delete(t.Context(), DeleteOptions{})
	for what, err := range map[string]error{"EnsureSite": errSite, "Lock": errLock, "Delete": errDelete} {
		if err == nil || !strings.Contains(err.Error(), "has no keyturn.json") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := localtest.Tree(t, dir); after != before {
		t.Errorf("it was\n%sis\n%s", before, after)
	}
}
