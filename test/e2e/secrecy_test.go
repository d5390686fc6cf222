package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	// aToken is the beginning of any signed token: a JSON object with an alg or kid, in base64url.
	aToken = regexp.MustCompile(`eyJhbGciOi[\w-]+\.eyJ|eyJraWQiOi[\w-]+\.eyJ`)
	aKey   = regexp.MustCompile(`PRIVATE KEY-----`)
)

// expectSecrecy checks that no log and no command line holds a token or a private key, and that files with
// private keys are for their owner only.
func (p *place) expectSecrecy(t *testing.T) {
	t.Helper()
	for _, q := range p.processes() {
		if aToken.MatchString(q.command) || aKey.MatchString(q.command) {
			t.Errorf("the command line of process %d (%s) holds a token or a key", q.pid, q.name)
		}
	}
	logs, keys := 0, 0
	err := filepath.WalkDir(p.dataDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || within(path, "containerd") {
			return nil //nolint:nilerr // a file that went away while we looked holds nothing
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		isLog := filepath.Ext(path) == ".log"
		if isLog {
			logs++
		}
		if isLog && (aToken.Match(data) || aKey.Match(data)) {
			t.Errorf("log %s holds a token or a key", path)
		}
		if info, err := d.Info(); err == nil && aKey.Match(data) {
			keys++
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s holds a private key and has mode %04o", path, info.Mode().Perm())
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if logs == 0 || keys == 0 {
		t.Errorf("looked at %d logs and %d files with keys: the check looks in the wrong place", logs, keys)
	}
}

// within reports whether a directory of that name is on the path.
func within(path, name string) bool {
	for path != "/" && path != "." {
		if filepath.Base(path) == name {
			return true
		}
		path = filepath.Dir(path)
	}
	return false
}
