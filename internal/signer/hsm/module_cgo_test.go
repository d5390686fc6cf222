//go:build cgo

package hsm

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyturn/keyturn/internal/signer/backend/backendtest"
	"github.com/keyturn/keyturn/signer/keydir"
)

const (
	libraryPath = "/usr/lib/softhsm/libsofthsm2.so"
	label       = "keyturn test"
	pin         = "732905"
)

// softHSM is a token of SoftHSM.
type softHSM struct {
	t      *testing.T
	dir    string
	module *Module
}

func newSoftHSM(t *testing.T) *softHSM {
	t.Helper()
	dir := t.TempDir()
	h := &softHSM{t: t, dir: filepath.Join(dir, "tokens"), module: New(libraryPath)}
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+h.dir+"\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin,
		"--so-pin", pin).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\nhint: hack/packages.sh installs SoftHSM", err, out)
	}
	t.Cleanup(func() {
		if err := h.module.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func uriOf(version int) string {
	return fmt.Sprintf("pkcs11:token=%s;object=ksa-%d;id=%%%02x?pin-source=hsm.pin", url.PathEscape(label), version,
		version)
}

// generate makes a key in the token.
func (h *softHSM) generate(t *testing.T, version int, algorithm string) keydir.Key {
	t.Helper()
	k := keydir.Key{Version: version, PKCS11: uriOf(version), PIN: keydir.Secret(pin)}
	var err error
	if k.Public, err = h.module.Generate(k.PKCS11, k.PIN, algorithm); err != nil {
		t.Fatal(err)
	}
	return k
}

// away unplugs the token.
func (h *softHSM) away(t *testing.T) (back func()) {
	if err := os.Rename(h.dir, h.dir+".away"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(h.dir+".away", h.dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSoftHSM(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
		h := newSoftHSM(t)
		return backendtest.Fixture{
			Backend: h.module,
			New:     h.generate,
			Away:    h.away,
			Gone: func(t *testing.T, k keydir.Key) keydir.Key {
				if err := h.module.Destroy(k.PKCS11, k.PIN); err != nil {
					t.Fatal(err)
				}
				return k
			},
			Secrets: func(keydir.Key) []string { return []string{pin} },
		}
	})
}
