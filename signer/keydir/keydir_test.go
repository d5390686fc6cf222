package keydir_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

func newKey(t testing.TB, version int) keydir.Key {
	t.Helper()
	private, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keydir.NewKey(version, private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newSet has key versions from 1, the last of which signs.
func newSet(t testing.TB, n int) keydir.Set {
	t.Helper()
	set := keydir.Set{
		SigningVersion: n, RefreshHint: time.Hour, RotationRefreshHint: 2 * time.Second, LeadIn: time.Second,
		MaxTokenExpiration: 24 * time.Hour,
	}
	for version := range n {
		set.Keys = append(set.Keys, newKey(t, version+1))
	}
	return set
}

func write(t testing.TB, dir string, set keydir.Set) {
	t.Helper()
	if err := keydir.Write(dir, set); err != nil {
		t.Fatal(err)
	}
}

// files lists all files and directories below one.
func files(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWriteAndRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing", "keys")
	set := newSet(t, 3)
	set.SigningVersion = 2
	set.Keys[0] = keydir.Key{Version: 1, Public: set.Keys[0].Public, VerifyOnly: true, ExcludeFromOIDCDiscovery: true}
	set.Keys[2].Private = nil
	set.Keys[2].PKCS11, set.Keys[2].PIN = "pkcs11:token=t;object=o?pin-source=hsm.pin", keydir.Secret("4711")
	write(t, dir, set)
	got, digest, err := keydir.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !equal(got, set) {
		t.Errorf("wrote %+v, read %+v", set, got)
	}
	write(t, dir, set)
	if _, again, err := keydir.Read(dir); err != nil || again != digest {
		t.Errorf("the digest of the same set differs, %v", err)
	}
	for _, path := range files(t, dir) {
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 && info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
}

// TestReadChange reads a directory that holds what is known, and one that does not.
func TestReadChange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	write(t, dir, newSet(t, 1))
	_, first, err := keydir.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if set, digest, err := keydir.ReadChange(dir, first); !errors.Is(err, keydir.ErrUnchanged) || len(set.Keys) > 0 ||
		digest != (keydir.Digest{}) {
		t.Errorf("unchanged: %v, %v", set, err)
	}
	write(t, dir, newSet(t, 1))
	if _, digest, err := keydir.ReadChange(dir, first); err != nil || digest == first {
		t.Errorf("another key of the same size: %v", err)
	}
	next := newSet(t, 2)
	write(t, dir, next)
	set, second, err := keydir.ReadChange(dir, first)
	if err != nil || second == first || !equal(set, next) {
		t.Errorf("changed: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "..data", "1.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keydir.ReadChange(dir, second); err == nil || errors.Is(err, keydir.ErrUnchanged) {
		t.Errorf("unchanged, but readable by others: %v", err)
	}
}

// TestWipe wipes a set that was read. Its parsed keys stay, and nothing of it parses again.
func TestWipe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	set := newSet(t, 2)
	set.Keys[0].Private, set.Keys[0].PKCS11 = nil, "pkcs11:token=t;object=o?pin-source=pin"
	set.Keys[0].PIN = keydir.Secret("4711")
	write(t, dir, set)
	got, _, err := keydir.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	got.Wipe()
	if got.Keys[1].Private[0] != 0 || got.Keys[0].PIN[0] != 0 {
		t.Error("a secret is left")
	}
	if signer, err := got.Keys[1].Signer(); err != nil || signer == nil {
		t.Errorf("the parsed key is gone: %v", err)
	}
	if _, err := token.ParsePrivateKey(got.Keys[1].Private); err == nil {
		t.Error("a private key that was wiped is still one")
	}
	if _, err := got.Keys[0].Signer(); err == nil {
		t.Error("a key in a PKCS #11 token has a private key in memory")
	}
}

// equal compares sets, with the keys that formatting hides.
func equal(a, b keydir.Set) bool {
	same := func(x, y keydir.Key) bool {
		p, errP := jwks.MarshalPublicKey(x.Public)
		q, errQ := jwks.MarshalPublicKey(y.Public)
		return errP == nil && errQ == nil && bytes.Equal(p, q) && bytes.Equal(x.Private, y.Private) &&
			bytes.Equal(x.PIN, y.PIN) &&
			x.Version == y.Version && x.PKCS11 == y.PKCS11 && x.VerifyOnly == y.VerifyOnly &&
			x.ExcludeFromOIDCDiscovery == y.ExcludeFromOIDCDiscovery
	}
	keys := slices.EqualFunc(a.Keys, b.Keys, same)
	a.Keys, b.Keys = nil, nil
	return keys && fmt.Sprint(a) == fmt.Sprint(b)
}

// TestNothingOfAnOldSetIsLeft searches for a retired private key in every file, also after a crash between two steps of
// Write.
func TestNothingOfAnOldSetIsLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	set := newSet(t, 2)
	write(t, dir, set)
	crashed := filepath.Join(dir, "..v-crashed")
	if err := os.Mkdir(crashed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(crashed, "1.key"), set.Keys[0].Private, 0o600); err != nil {
		t.Fatal(err)
	}
	retired := set
	retired.Keys = set.Keys[1:]
	write(t, dir, retired)
	check := func() {
		t.Helper()
		for _, path := range files(t, dir) {
			raw, err := os.ReadFile(path)
			if err == nil && bytes.Contains(raw, set.Keys[0].Private) {
				t.Errorf("%s holds the private key that was retired", path)
			}
		}
	}
	check()
	// An equal set is not written again, but what a crash left goes.
	if err := os.WriteFile(filepath.Join(dir, "left"), set.Keys[0].Private, 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, retired)
	check()
	if now, err := os.Readlink(filepath.Join(dir, "..data")); err != nil || now != target {
		t.Errorf("an equal set was written again, %v", err)
	}
}

// plain lays a set out as files side by side, without links.
func plain(t testing.TB, dir string, set keydir.Set) {
	t.Helper()
	temporary := filepath.Join(t.TempDir(), "keys")
	write(t, temporary, set)
	target, err := filepath.EvalSymlinks(filepath.Join(temporary, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(target, dir); err != nil {
		t.Fatal(err)
	}
}

func TestReadRefuses(t *testing.T) {
	manifest := func(change func(map[string]any)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, keydir.ManifestName)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			change(m)
			if raw, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			replaceFile(t, path, raw)
		}
	}
	key := func(i int, change func(map[string]any)) func(t *testing.T, dir string) {
		return manifest(func(m map[string]any) { change(m["keys"].([]any)[i].(map[string]any)) })
	}
	text := func(name, content string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { replaceFile(t, filepath.Join(dir, name), []byte(content)) }
	}
	mode := func(name string, mode os.FileMode) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"nothing": {func(t *testing.T, dir string) { os.RemoveAll(dir) }, "keys: no such file"},
		"no manifest": {
			func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, keydir.ManifestName)) }, "keys.json: no such file",
		},
		"empty manifest":  {text(keydir.ManifestName, ""), "keys.json: empty"},
		"half a manifest": {text(keydir.ManifestName, `{"signingVersion": 1, "ke`), "not a JSON object"},
		"member twice":    {text(keydir.ManifestName, `{"signingVersion": 1, "signingVersion": 2}`), "not a JSON object"},
		"unknown member":  {manifest(func(m map[string]any) { m["signingversion"] = 2 }), `"signingversion" is not known`},
		"null":            {manifest(func(m map[string]any) { m["keys"] = nil }), `"keys" has a value of the wrong kind`},
		"wrong kind": {
			manifest(func(m map[string]any) { m["signingVersion"] = "2" }), `"signingVersion" has a value of the wrong kind`,
		},
		"unknown member of a key": {
			key(0, func(k map[string]any) { k["sign"] = true }), `keys[0]: member "sign" is not known`,
		},
		"no keys": {manifest(func(m map[string]any) { m["keys"] = []any{} }), "1 to 100 keys"},
		"no hint": {
			manifest(func(m map[string]any) { m["refreshHintSeconds"] = 0 }), "refreshHintSeconds must be",
		},
		"huge hint": {
			manifest(func(m map[string]any) { m["refreshHintSeconds"] = int64(1) << 62 }), "refreshHintSeconds must be",
		},
		"negative hint": {
			manifest(func(m map[string]any) { m["rotationRefreshHintSeconds"] = -5 }), "rotationRefreshHintSeconds must be",
		},
		"negative lead-in": {manifest(func(m map[string]any) { m["leadInSeconds"] = -1 }), "leadInSeconds must be"},
		"short expiration": {
			manifest(func(m map[string]any) { m["maxTokenExpirationSeconds"] = 599 }), "maxTokenExpirationSeconds must be",
		},
		"nobody signs": {
			manifest(func(m map[string]any) { m["signingVersion"] = 3 }), "signingVersion is 3, and no key",
		},
		"verify-only signs": {
			key(1, func(k map[string]any) { k["verifyOnly"] = true }), "signingVersion is 2, and no key",
		},
		"no private key signs": {key(1, func(k map[string]any) { delete(k, "private") }), "signingVersion is 2, and no key"},
		"excluded signs": {
			key(1, func(k map[string]any) { k["excludeFromOIDCDiscovery"] = true }), "must be verifyOnly",
		},
		"descending": {
			manifest(func(m map[string]any) { slices.Reverse(m["keys"].([]any)) }), "versions must ascend",
		},
		"version 0": {key(0, func(k map[string]any) { k["version"] = 0 }), "versions must ascend"},
		"one key twice": {
			key(1, func(k map[string]any) { k["public"], k["private"] = "1.pub", "1.key" }), "the same key as version 1",
		},
		"other public key": {key(1, func(k map[string]any) { k["public"] = "1.pub" }), "does not belong to its private key"},
		"two private keys": {
			key(1, func(k map[string]any) { k["pkcs11"] = "pkcs11:token=t;object=o" }), "both in a file and in a PKCS #11 token",
		},
		"no public key": {key(0, func(k map[string]any) { delete(k, "public") }), "not the name of a file"},
		"leads out":     {key(0, func(k map[string]any) { k["private"] = "../secret" }), "not the name of a file"},
		"absolute":      {key(0, func(k map[string]any) { k["private"] = "/etc/passwd" }), "not the name of a file"},
		"hidden":        {key(0, func(k map[string]any) { k["private"] = "..data" }), "not the name of a file"},
		"missing file": {
			func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "1.key")) }, "key version 1: 1.key: no such file",
		},
		"short private key": {
			func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "1.key"), 100) }, "ends before its PEM block does",
		},
		"empty private key": {text("1.key", ""), "1.key: empty"},
		"short public key": {
			func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "1.pub"), 50) }, "ends before its PEM block does",
		},
		"huge file": {text("1.key", strings.Repeat("x", 300<<10)), "longer than"},
		"no PIN": {
			key(0, func(k map[string]any) { delete(k, "private"); k["pkcs11"] = "pkcs11:token=t;object=o?pin-source=pin" }),
			"pin: no such file",
		},
		"wide private key":    {mode("1.key", 0o640), "1.key: its mode 0640 lets others read or write it"},
		"writable public key": {mode("1.pub", 0o622), "1.pub: its mode 0622 lets others write it"},
		"writable manifest":   {mode(keydir.ManifestName, 0o606), "keys.json: its mode 0606 lets others write it"},
		"writable directory":  {mode(".", 0o770), "its mode 0770 lets others write it"},
		"directory for a file": {func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "1.pub"))
			os.Mkdir(filepath.Join(dir, "1.pub"), 0o700)
		}, "1.pub: not a regular file"},
		"link that leads out": {func(t *testing.T, dir string) {
			os.Rename(filepath.Join(dir, "1.key"), filepath.Join(dir, "..", "moved.key"))
			os.Symlink("../moved.key", filepath.Join(dir, "1.key"))
		}, "1.key: path escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			set := newSet(t, 2)
			plain(t, dir, set)
			if _, _, err := keydir.Read(dir); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			_, _, err := keydir.Read(dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want it to say %q", err, test.want)
			}
			checkSilent(t, err, set)
		})
	}
}

func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkSilent fails the test if an error holds a line of a private key.
func checkSilent(t *testing.T, err error, set keydir.Set) {
	t.Helper()
	for _, k := range set.Keys {
		for line := range strings.Lines(string(k.Private)) {
			if err != nil && strings.Contains(err.Error(), strings.TrimSpace(line)) {
				t.Errorf("the error shows a line of a private key")
			}
		}
	}
}

func TestReadRefusesOtherOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	for _, name := range []string{".", keydir.ManifestName, "1.pub", "1.key"} {
		dir := filepath.Join(t.TempDir(), "keys")
		plain(t, dir, newSet(t, 1))
		if err := os.Chown(filepath.Join(dir, name), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, _, err := keydir.Read(dir); err == nil || !strings.Contains(err.Error(), "it belongs to user 65534") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	set := newSet(t, 1)
	for name, change := range map[string]func(*keydir.Set){
		"no keys":   func(s *keydir.Set) { s.Keys = nil },
		"PIN alone": func(s *keydir.Set) { s.Keys[0].PIN = keydir.Secret("1") },
		"URI alone": func(s *keydir.Set) {
			s.Keys[0].Private = nil
			s.Keys[0].PKCS11 = "pkcs11:token=t;object=o?pin-source=p"
		},
		"PIN elsewhere": func(s *keydir.Set) {
			s.Keys[0].Private, s.Keys[0].PIN = nil, keydir.Secret("1")
			s.Keys[0].PKCS11 = "pkcs11:token=t;object=o?pin-source=../p"
		},
		"PIN over a key": func(s *keydir.Set) {
			s.Keys[0].Private, s.Keys[0].PIN = nil, keydir.Secret("1")
			s.Keys[0].PKCS11 = "pkcs11:token=t;object=o?pin-source=1.pub"
		},
		"huge PIN": func(s *keydir.Set) {
			s.Keys[0].Private, s.Keys[0].PIN = nil, make(keydir.Secret, 256<<10+1)
			s.Keys[0].PKCS11 = "pkcs11:token=t;object=o?pin-source=p"
		},
		"half a second": func(s *keydir.Set) { s.RefreshHint += time.Millisecond },
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		bad := set
		bad.Keys = slices.Clone(set.Keys)
		change(&bad)
		if err := keydir.Write(dir, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	set := newSet(t, 1)
	set.Keys[0].PIN = keydir.Secret("a secret PIN")
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, set)
		fmt.Fprintf(&out, verb, set.Keys[0])
		fmt.Fprintf(&out, verb, set.Keys[0].PIN)
	}
	encoded, err := json.Marshal(set.Keys[0].Private)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	if shown := set.Keys[0].PIN.String(); shown != "[secret]" || string(encoded) != `"[secret]"` {
		t.Errorf("shown are %q and %s", shown, encoded)
	}
	for _, secret := range []string{"a secret PIN", "61207365637265742050494e", "PRIVATE KEY", "MIG", "97 32 115"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q shows", secret)
		}
	}
}
