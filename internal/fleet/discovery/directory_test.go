package discovery_test

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/lockfile"
	"github.com/keyturn/keyturn/internal/lockfile/locktest"
	"github.com/keyturn/keyturn/jwks"
)

// TestDirectoryModes publishes with a umask that would keep everything from the web server.
func TestDirectoryModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "www")
	defer syscall.Umask(syscall.Umask(0o077))
	b := newBucket(t, "file://"+dir+"?create_dir=true&prefix=clusters/blue/")
	keys := rotationKeys(t)
	publishOf(t, b, keys, 1)
	publishOf(t, b, keys, 1, 2)
	got := map[string]fs.FileMode{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		got[strings.TrimPrefix(path, dir)] = info.Mode()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const directory = fs.ModeDir | 0o755
	want := map[string]fs.FileMode{
		"": directory, "/clusters": directory, "/clusters/blue": directory, "/clusters/blue/.well-known": directory,
		"/clusters/blue/.well-known/openid-configuration": 0o644,
		"/clusters/blue/openid":                           directory, "/clusters/blue/openid/v1": directory,
		"/clusters/blue/openid/v1/jwks": 0o644,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestDirectoryOfOthers has directories in which somebody else could replace what is published, or lead it elsewhere.
func TestDirectoryOfOthers(t *testing.T) {
	const nobody = 65534
	for name, test := range map[string]struct {
		spoil func(t *testing.T, dir string)
		root  bool // only root can make it so
		want  string
	}{
		"another user's": {
			func(t *testing.T, dir string) { must(t, os.Chown(dir, nobody, nobody)) }, true, "belongs to user 65534",
		},
		"below another's": {
			func(t *testing.T, dir string) { must(t, os.Chown(filepath.Dir(dir), nobody, nobody)) }, true,
			"belongs to user 65534",
		},
		"everybody's": {func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777)) }, false, "chmod go-w"},
		"everybody's, sticky": {
			func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777|fs.ModeSticky)) }, false, "chmod go-w",
		},
		"a group's": {func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o775)) }, false, "chmod go-w"},
		"below everybody's": {
			func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Dir(dir), 0o777)) }, false, "chmod go-w",
		},
		"another's .well-known": {func(t *testing.T, dir string) {
			must(t, os.Mkdir(filepath.Join(dir, ".well-known"), 0o755))
			must(t, os.Chown(filepath.Join(dir, ".well-known"), nobody, nobody))
		}, true, "belongs to user 65534"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			dir := filepath.Join(t.TempDir(), "www", "oidc")
			must(t, os.MkdirAll(dir, 0o755))
			test.spoil(t, dir)
			before, err := os.Stat(dir)
			must(t, err)
			err = newBucket(t, "file://"+dir).Publish(t.Context(), []keystore.KeyPair{generate(t, 1, jwks.ES256)}, []int{1})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("publishing: %v, want %q", err, test.want)
			}
			if after, err := os.Stat(dir); err != nil || after.Mode() != before.Mode() {
				t.Errorf("its mode was %v and is %v (%v)", before.Mode(), after.Mode(), err)
			}
			if _, err := os.Lstat(filepath.Join(dir, discoveryName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is published there (%v)", err)
			}
		})
	}
}

// TestDirectoryLinks has a symbolic link at each level of the path: nothing is read, written or changed where it leads
// to.
func TestDirectoryLinks(t *testing.T) {
	for _, link := range []string{"", ".well-known", "openid", "openid/v1", discoveryName, jwksName} {
		t.Run("at "+link, func(t *testing.T) {
			elsewhere, dir := t.TempDir(), filepath.Join(t.TempDir(), "oidc")
			target := filepath.Join(elsewhere, "target")
			if link == discoveryName || link == jwksName {
				must(t, os.WriteFile(target, []byte("{}"), 0o600))
			} else {
				must(t, os.Mkdir(target, 0o700))
			}
			at := filepath.Join(dir, link)
			must(t, os.MkdirAll(filepath.Dir(at), 0o755))
			must(t, os.Symlink(target, at))
			before, err := os.Stat(target)
			must(t, err)

			b, k := newBucket(t, "file://"+dir+"?create_dir=true"), generate(t, 1, jwks.ES256)
			if err := b.Publish(t.Context(), []keystore.KeyPair{k}, []int{1}); err == nil ||
				!strings.Contains(err.Error(), "no symbolic link is followed") {
				t.Errorf("publishing: %v", err)
			}
			if _, err := b.Observe(t.Context(), []keystore.KeyPair{k}); err == nil {
				t.Error("observing: no error")
			}
			after, err := os.Stat(target)
			must(t, err)
			if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("what the link leads to was %v of %v, and is %v of %v", before.Mode(), before.ModTime(), after.Mode(),
					after.ModTime())
			}
		})
	}
}

// TestDirectoryMeanwhile has somebody write an object between our reading and our writing: it stays.
func TestDirectoryMeanwhile(t *testing.T) {
	dir := t.TempDir()
	must(t, discovery.Put(t.Context(), "file://"+dir, jwksName, "one", ""))
	for _, was := range []string{"", "zero"} {
		err := discovery.Put(t.Context(), "file://"+dir, jwksName, "two", was)
		if err == nil || !strings.Contains(err.Error(), "somebody else has changed it") {
			t.Errorf("writing where %q was read: %v", was, err)
		}
	}
	unlock := locked(t, filepath.Join(dir, "openid", "v1"))
	err := discovery.Put(t.Context(), "file://"+dir, jwksName, "two", "one")
	if !errors.Is(err, lockfile.ErrBusy) {
		t.Errorf("writing while somebody else writes: %v", err)
	}
	unlock()
	got, err := os.ReadFile(filepath.Join(dir, jwksName))
	if err != nil || string(got) != "one" {
		t.Errorf("the object is %q (%v)", got, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "openid", "v1"))
	if err != nil || len(entries) != 1 {
		t.Errorf("files %v (%v)", entries, err)
	}
}

// locked locks a directory as another controller does that writes there.
func locked(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	at, err := os.OpenRoot(dir)
	must(t, err)
	lock, err := lockfile.Try(at, ".keyturn.lock")
	must(t, err)
	return func() { must(t, errors.Join(lock.Unlock(), at.Close())) }
}

// TestDirectoryLockedByAnotherUser has a user of the host lock the directories, which he can read like everybody.
func TestDirectoryLockedByAnotherUser(t *testing.T) {
	dir := locktest.Dir(t)
	b, k := newBucket(t, "file://"+dir), generate(t, 1, jwks.ES256)
	publish(t, b, k)
	for _, name := range []string{"", ".well-known", "openid", "openid/v1"} {
		locktest.LockAsNobody(t, filepath.Join(dir, name))
	}
	second := generate(t, 2, jwks.ES256)
	publish(t, b, k, second)
	must(t, b.Remove(t.Context()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDirectoryMissing has no directory. It may be one that is to be mounted, so only create_dir makes it, and only
// when there is something to write.
func TestDirectoryMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "www")
	k := generate(t, 1, jwks.ES256)
	b := newBucket(t, "file://"+dir)
	if _, err := b.Observe(t.Context(), []keystore.KeyPair{k}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("observing: %v", err)
	}
	if err := b.Publish(t.Context(), []keystore.KeyPair{k}, []int{1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("publishing: %v", err)
	}
	if err := b.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	creates := newBucket(t, "file://"+dir+"?create_dir=true")
	if o := observe(t, creates, k); len(o.Refuses) != 1 || o.Waiting == "" {
		t.Errorf("observed %+v", o)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("observing made the directory (%v)", err)
	}
	publish(t, creates, k)
	wantClean(t, b, []keystore.KeyPair{k}, 1) // made meanwhile, for both
}

// TestDirectoryLeftovers has the temporary files of a process that was killed while it wrote.
func TestDirectoryLeftovers(t *testing.T) {
	p := newDirectory(t)
	dir := strings.TrimPrefix(p.url, "file://")
	b := newBucket(t, p.url)
	leave := func() {
		for _, name := range []string{discoveryName, jwksName} {
			p.replace(t, name+".18a2b3c4d5e6f708.tmp", []byte("half"))
			p.replace(t, path.Join(path.Dir(name), ".keyturn.lock"), nil)
		}
	}
	leave()
	publish(t, b, generate(t, 1, jwks.ES256))
	if diff := cmp.Diff([]string{discoveryName, jwksName}, p.names(t)); diff != "" {
		t.Errorf("after Publish (-want +got):\n%s", diff)
	}
	leave()
	if err := b.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string(nil), p.names(t)); diff != "" {
		t.Errorf("after Remove (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(dir, "openid/v1")); err != nil {
		t.Errorf("Remove took a directory away, which others may use: %v", err)
	}
}

// TestDirectoryReaders reads the files all the time while they are replaced: none is ever missing or half, and there
// are never more than the two live keys.
func TestDirectoryReaders(t *testing.T) {
	p := newDirectory(t)
	b := newBucket(t, p.url)
	old := generate(t, 1, jwks.ES256)
	publish(t, b, old)
	for version := 2; version < 30; version++ {
		algorithm := jwks.ES256
		if version%10 == 0 {
			algorithm = jwks.RS256
		}
		next := generate(t, version, algorithm)
		live := []keystore.KeyPair{old, next}
		meanwhile(t, func() {
			publish(t, b, old, next)
			publishOf(t, b, live, version)
		}, func() bool {
			set, err := jwks.Parse(p.content(t, jwksName))
			if err != nil || set.Len() < 1 || set.Len() > 2 {
				t.Errorf("the JWKS holds %d keys (%v)", set.Len(), err)
			}
			for _, k := range set.Keys() {
				if k.KeyID != live[0].KeyID && k.KeyID != live[1].KeyID {
					t.Errorf("key %s is served, and not live", k.KeyID)
				}
			}
			_, err = jwks.ParseDiscovery(p.content(t, discoveryName))
			return err == nil
		})
		old = next
	}
}

// TestCertainAt has a store whose clock is behind that of the controller, and one that cuts off fractions of a second.
func TestCertainAt(t *testing.T) {
	p := newDirectory(t)
	now := time.Now().Add(time.Hour)
	b, err := discovery.New(discovery.Options{
		Cluster: clusterUID, URL: p.url, Issuer: issuer, MaxAge: time.Minute, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	k := generate(t, 1, jwks.ES256)
	publish(t, b, k)
	if o := observe(t, b, k); !o.CertainAt.Equal(now.Add(time.Minute)) {
		t.Errorf("written at %v by its own clock: sure at %v", now, o.CertainAt)
	}
	dir := strings.TrimPrefix(p.url, "file://")
	first, last := time.Unix(1_700_000_000, 500), time.Unix(1_700_000_100, 1)
	touch(t, filepath.Join(dir, discoveryName), first)
	touch(t, filepath.Join(dir, jwksName), last)
	other := newBucket(t, p.url)
	if o := observe(t, other, k); !o.PublishedAt.Equal(last) || !o.CertainAt.Equal(last.Add(time.Minute)) {
		t.Errorf("written at %v: published at %v and sure at %v", last, o.PublishedAt, o.CertainAt)
	}
	last = time.Unix(1_700_000_200, 0)
	touch(t, filepath.Join(dir, discoveryName), last)
	if o := observe(t, other, k); !o.PublishedAt.Equal(last) || !o.CertainAt.Equal(last.Add(time.Minute+time.Second)) {
		t.Errorf("written at %v: published at %v and sure at %v", last, o.PublishedAt, o.CertainAt)
	}
}

func touch(t *testing.T, path string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}
