package hostkeys

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/token"
)

func TestKeysOfARotation(t *testing.T) {
	s := newServer(t)
	if held, err := s.Configured(); err != nil || !held.IsZero() {
		t.Errorf("before the first time: %v, %v", held, err)
	}
	must(t, s.Tidy(rotation.Keys{}), s.Repair(testKeys))
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("tidying made a directory: %v", err)
	}
	must(t, s.Configure(files(1, 1, 2), testKeys))
	wantFiles(t, s.Dir, "configured.json", "sa-1.key", "sa-1.pub", "sa-2.pub")
	must(t, s.Configure(files(2, 1, 2), testKeys), s.Tidy(files(1, 1, 2)))
	wantFiles(t, s.Dir, "configured.json", "sa-1.key", "sa-1.pub", "sa-2.key", "sa-2.pub")
	must(t, s.Tidy(files(2, 1, 2)))
	wantFiles(t, s.Dir, "configured.json", "sa-1.pub", "sa-2.key", "sa-2.pub")
	must(t, s.Configure(files(2, 2), testKeys[1:]), s.Tidy(files(2, 2)))
	wantFiles(t, s.Dir, "configured.json", "sa-2.key", "sa-2.pub")
	if held, err := s.Configured(); err != nil || !held.Equal(files(2, 2)) {
		t.Errorf("configured: %v, %v", held, err)
	}
	s.wantKeys(t, files(2, 2))
	for _, dir := range []string{s.Dir, filepath.Dir(s.Dir)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, %v", dir, info.Mode(), err)
		}
	}
}

func TestKeysOfASigner(t *testing.T) {
	s := newServer(t)
	if _, ok := s.Served(); ok {
		t.Error("a signer without a directory serves")
	}
	must(t, s.Configure(files(1, 1), testKeys), s.Configure(external(1, 1), testKeys), s.Tidy(files(1, 1)))
	wantFiles(t, s.Dir, "configured.json", "sa-1.key", "sa-1.pub") // the process still runs with its files
	s.wantServed(t, external(1, 1))
	must(t, s.Tidy(external(1, 1)))
	wantFiles(t, s.Dir, "configured.json")
	if err := s.RemoveSigner(); err == nil {
		t.Error("the keys of a signer that is needed were removed")
	}
	s.wantServed(t, external(1, 1))
	must(t, s.Configure(files(1, 1), testKeys), s.RemoveSigner(), s.RemoveSigner())
	if _, err := os.Stat(s.SignerDir); !os.IsNotExist(err) {
		t.Errorf("the keys of a signer that is not needed are left: %v", err)
	}
}

// stages are what an API server is configured with, one after the other.
var stages = []rotation.Keys{
	files(1, 1), files(1, 1, 2), files(2, 1, 2), files(2, 2), files(2, 2, 3), files(3, 2, 3), files(3, 3),
}

func TestEarlierStageIsRefused(t *testing.T) {
	for h, held := range stages {
		for w, want := range stages {
			for source := range 4 {
				held.External, want.External = source&1 > 0, source&2 > 0
				s := newServer(t)
				must(t, s.Configure(held, testKeys))
				was := snapshot(t, filepath.Dir(s.SignerDir))
				err := s.Configure(want, testKeys)
				is, readErr := s.Configured()
				must(t, readErr)
				switch {
				case w >= h && (err != nil || !is.Equal(want)):
					t.Errorf("from %v to %v: %v, %v", held, want, is, err)
				case w < h && (!errors.Is(err, ErrStale) || !maps.Equal(was, snapshot(t, filepath.Dir(s.SignerDir)))):
					t.Errorf("from %v back to %v: %v, %v", held, want, is, err)
				case w < h && (!strings.Contains(err.Error(), describe(held)) || !strings.Contains(err.Error(), describe(want))):
					t.Errorf("the error does not name both: %v", err)
				}
			}
		}
	}
}

func TestErrorOfAnEarlierStage(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(2, 2), testKeys))
	const want = "later keys are configured already: " +
		"it should accept key versions [2] and sign with 2, and no longer accept key versions [1] and sign with 1"
	if err := s.Configure(files(1, 1), testKeys); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestOlderSigningKeyIsRefused(t *testing.T) {
	m := newManager(t)
	if held, err := m.Configured(); err != nil || held != 0 {
		t.Errorf("before the first time: %d, %v", held, err)
	}
	must(t, m.Tidy(0), m.Configure(2, testKeys), m.Configure(2, testKeys))
	was := snapshot(t, m.Dir)
	err := m.Configure(1, testKeys)
	text := fmt.Sprint(err)
	if !errors.Is(err, ErrStale) || !strings.Contains(text, "version 2") || !strings.Contains(text, "with 1") {
		t.Errorf("got %v", err)
	}
	if !maps.Equal(was, snapshot(t, m.Dir)) {
		t.Error("something was written")
	}
	must(t, m.Configure(3, testKeys), m.Tidy(2))
	wantFiles(t, m.Dir, "configured.json", "sa-2.key", "sa-3.key")
	must(t, m.Tidy(3))
	wantFiles(t, m.Dir, "configured.json", "sa-3.key")
	wantPrivate(t, m.PrivateKey(3), 3)
	if err := m.Configure(4, testKeys); err == nil || !strings.Contains(err.Error(), "was not given") {
		t.Errorf("a key that was not given: %v", err)
	}
	if held, err := m.Configured(); err != nil || held != 3 {
		t.Errorf("configured: %d, %v", held, err)
	}
}

func TestKeysWithoutAStageAreRefused(t *testing.T) {
	s := newServer(t)
	for _, k := range []rotation.Keys{
		{}, {Sign: 1}, {Verify: []int{1}}, files(0, 0), files(-1, -1), files(0, 0, 1), files(2, 1), external(2, 1),
		files(1, 1, 3), files(2, 2, 1), files(1, 1, 1), files(1, 1, 2, 3), files(3, 1, 2),
	} {
		if err := s.Configure(k, append(testKeys, Key{Signer: testKeys[0].Signer})); err == nil || errors.Is(err, ErrStale) {
			t.Errorf("%v: %v", k, err)
		}
	}
	for _, k := range []rotation.Keys{files(1, 1, 2), external(1, 1, 2), files(3, 3)} {
		if err := s.Configure(k, testKeys[:1]); err == nil || !strings.Contains(err.Error(), "was not given") {
			t.Errorf("%v without one of its keys: %v", k, err)
		}
		if held, err := s.Configured(); err != nil || !held.IsZero() {
			t.Errorf("%v is configured, %v", held, err)
		}
	}
	if err := s.Configure(files(1, 1), []Key{{Version: 1}}); err == nil {
		t.Error("a version without a key was configured")
	}
}

func TestSpoiledConfiguration(t *testing.T) {
	for _, content := range []string{
		"", "{", "[]", "null garbage", `{"Verify":[1],"Sign":1,"Stage":9}`, `{"Verify":[2],"Sign":1}`,
		`{"Verify":[],"Sign":0}`, `{"Sign":-1}`,
	} {
		s, m := newServer(t), newManager(t)
		must(t, s.Configure(files(1, 1), testKeys), m.Configure(1, testKeys))
		for _, path := range []string{filepath.Join(s.Dir, configuredFile), filepath.Join(m.Dir, configuredFile)} {
			must(t, os.WriteFile(path, []byte(content), 0o600))
		}
		_, server := s.Configured()
		_, manager := m.Configured()
		for what, err := range map[string]error{
			"reading":                 server,
			"configuring":             s.Configure(files(2, 2), testKeys),
			"tidying":                 s.Tidy(files(1, 1)),
			"repairing":               s.Repair(testKeys),
			"removing the signer":     s.RemoveSigner(),
			"reading the manager's":   manager,
			"configuring the manager": m.Configure(2, testKeys),
			"tidying the manager's":   m.Tidy(1),
		} {
			if err == nil || !strings.Contains(err.Error(), configuredFile) {
				t.Errorf("%s with %q: %v", what, content, err)
			}
		}
		wantFiles(t, s.Dir, "configured.json", "sa-1.key", "sa-1.pub")
		wantFiles(t, m.Dir, "configured.json", "sa-1.key")
	}
}

func TestRepair(t *testing.T) {
	for name, spoil := range map[string]func(s APIServer) error{
		"key gone":        func(s APIServer) error { return os.Remove(s.PrivateKey(1)) },
		"public key gone": func(s APIServer) error { return os.Remove(s.PublicKey(2)) },
		"another key":     func(s APIServer) error { return os.Rename(s.PublicKey(1), s.PublicKey(2)) },
		"half a key":      func(s APIServer) error { return os.Truncate(s.PrivateKey(1), 20) },
	} {
		s := newServer(t)
		must(t, s.Configure(files(1, 1, 2), testKeys), spoil(s), s.Repair(testKeys))
		t.Log(name)
		s.wantKeys(t, files(1, 1, 2))
		was := snapshot(t, s.Dir)
		must(t, s.Repair(testKeys[1:])) // not all that it needs
		if !maps.Equal(was, snapshot(t, s.Dir)) {
			t.Error("repairing with too few keys changed something")
		}
	}
	s := newServer(t)
	must(t, s.Configure(external(1, 1, 2), testKeys), os.RemoveAll(s.SignerDir), s.Repair(testKeys[1:]))
	if _, ok := s.Served(); ok {
		t.Error("a signer got keys that were not given")
	}
	must(t, s.Repair(testKeys))
	s.wantServed(t, external(1, 1, 2))
}

func TestRepairWithoutConfiguration(t *testing.T) {
	s := newServer(t)
	must(t, os.MkdirAll(s.Dir, 0o700), s.Repair(testKeys))
	wantFiles(t, s.Dir)
}

// TestOwnerAndMode replaces files of somebody else.
func TestOwnerAndMode(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys))
	owners := map[string]struct {
		uid, gid int
		mode     os.FileMode
	}{configuredFile: {1, 2, 0o644}, "sa-1.pub": {3, 4, 0o640}, "sa-1.key": {0, 5, 0o440}}
	for name, o := range owners {
		path := filepath.Join(s.Dir, name)
		must(t, os.WriteFile(path, []byte("spoiled"), 0o600), os.Chmod(path, o.mode))
		if os.Geteuid() == 0 {
			must(t, os.Chown(path, o.uid, o.gid))
		}
	}
	must(t, os.WriteFile(filepath.Join(s.Dir, configuredFile), []byte(`{"Verify":[1],"Sign":1}`), 0))
	must(t, s.Configure(files(1, 1, 2), testKeys))
	s.wantKeys(t, files(1, 1, 2))
	for name, o := range owners {
		info, err := os.Stat(filepath.Join(s.Dir, name))
		must(t, err)
		owner := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != o.mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), o.mode)
		}
		if os.Geteuid() == 0 && (int(owner.Uid) != o.uid || int(owner.Gid) != o.gid) {
			t.Errorf("%s belongs to %d:%d, want %d:%d", name, owner.Uid, owner.Gid, o.uid, o.gid)
		}
	}
}

// TestLinks has links where files are to be: what they lead to stays, and gets no key.
func TestLinks(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys))
	outside := filepath.Join(t.TempDir(), "theirs")
	must(t, os.WriteFile(outside, []byte("theirs"), 0o644))
	for _, path := range []string{s.PublicKey(2), s.PrivateKey(2)} {
		must(t, os.Symlink(outside, path))
	}
	must(t, s.Configure(files(2, 1, 2), testKeys))
	s.wantKeys(t, files(2, 1, 2))
	must(t, s.Tidy(files(2, 1, 2)))
	wantFiles(t, s.Dir, "configured.json", "sa-1.pub", "sa-2.key", "sa-2.pub")
	must(t, os.Remove(filepath.Join(s.Dir, configuredFile)), os.Symlink(outside, filepath.Join(s.Dir, configuredFile)))
	if _, err := s.Configured(); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("a configuration behind a link that leads out: %v", err)
	}
	if err := s.Configure(files(2, 2), testKeys); err == nil {
		t.Error("the stage that it holds cannot be read, and it was given keys")
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "theirs" {
		t.Errorf("what a link led to is %q, %v", got, err)
	}
}

// TestTidyDeletesOnlyOurs has files of others in the directory.
func TestTidyDeletesOnlyOurs(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys))
	theirs := []string{"ca.key", "sa.key", "sa.pub", "sa-x.key", "sa-2.key.bak", ".hidden", "my-sa-2.key", ".sa-2.key"}
	gone := []string{"sa-7.key", "sa-7.pub", ".sa-2.key.ABC234", ".sa-12.pub.1", ".configured.json.XYZ"}
	for _, name := range append(theirs, gone...) {
		must(t, os.WriteFile(filepath.Join(s.Dir, name), nil, 0o600))
	}
	must(t, os.Mkdir(filepath.Join(s.Dir, "etcd"), 0o700), s.Tidy(files(1, 1)))
	left := snapshot(t, s.Dir)
	for _, name := range append(theirs, configuredFile, "sa-1.key", "sa-1.pub") {
		if _, ok := left[name]; !ok {
			t.Errorf("%s was deleted", name)
		}
	}
	if len(left) != len(theirs)+3 {
		t.Errorf("files left: %q", left)
	}
}

func TestObstacle(t *testing.T) {
	s := newServer(t)
	must(t, s.Configure(files(1, 1), testKeys), os.MkdirAll(filepath.Join(s.PublicKey(2), "in the way"), 0o700))
	if err := s.Configure(files(1, 1, 2), testKeys); err == nil {
		t.Error("no error")
	}
	if held, err := s.Configured(); err != nil || !held.Equal(files(1, 1)) {
		t.Errorf("configured: %v, %v", held, err)
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if err := s.Tidy(files(1, 1)); err == nil {
		t.Error("what cannot be deleted is no error")
	}
	must(t, os.RemoveAll(s.PublicKey(2)), s.Configure(files(1, 1, 2), testKeys))
	s.wantKeys(t, files(1, 1, 2))
	file := APIServer{Dir: s.PublicKey(1), SignerDir: s.SignerDir}
	_, err := file.Configured()
	for what, err := range map[string]error{
		"reading":     err,
		"configuring": file.Configure(files(1, 1), testKeys),
		"tidying":     file.Tidy(files(1, 1)),
		"repairing":   file.Repair(testKeys),
	} {
		if err == nil || !strings.Contains(err.Error(), file.Dir) {
			t.Errorf("%s a file: %v", what, err)
		}
	}
}

// TestKeyHidesItself formats keys in every way.
func TestKeyHidesItself(t *testing.T) {
	k := testKeys[0]
	private, err := token.MarshalPrivateKey(k.Signer)
	must(t, err)
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&shown, verb+verb, k, []Key{k})
	}
	must(t, json.NewEncoder(&shown).Encode([]Key{k}))
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("key", "key", k)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("key", "key", k)
	if want := strings.Count(shown.String(), "key version 1"); want != 17 {
		t.Errorf("named %d times: %s", want, &shown)
	}
	secret := strings.Split(string(private), "\n")[1]
	if strings.Contains(shown.String(), secret) || strings.Contains(shown.String(), "PRIVATE") {
		t.Error("the private key shows")
	}
	hardware := []Key{{Version: 1, Signer: opaque{k.Signer}}}
	for _, want := range []rotation.Keys{files(1, 1), external(1, 1)} {
		err := newServer(t).Configure(want, hardware)
		if err == nil || !strings.Contains(err.Error(), "key version 1") {
			t.Errorf("a key that cannot be had was written: %v", err)
		}
	}
}
