//go:build cgo

package signercmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keyturn/keyturn/internal/signer/hsm"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// newToken makes a token of SoftHSM, which the programs that the test starts use too.
func newToken(t *testing.T, dir string) (tokens string, pin keydir.Secret) {
	t.Helper()
	tokens, pin = filepath.Join(dir, "tokens"), keydir.Secret("732905")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "ksa", "--pin",
		string(pin), "--so-pin", string(pin)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\nhint: hack/packages.sh installs SoftHSM", err, out)
	}
	return tokens, pin
}

// TestHardware rotates a key of a file to one in a token, which then goes away, also at the start of a child, and comes
// back.
func TestHardware(t *testing.T) {
	w := newWorld(t)
	tokens, pin := newToken(t, w.dir)
	w.start("--pkcs11-module=" + softHSM)
	w.eventuallySigns()
	k := keydir.Key{Version: 2, PKCS11: "pkcs11:token=ksa;object=ksa-2;id=%02?pin-source=hsm.pin", PIN: pin}
	module := hsm.New(softHSM)
	var err error
	if k.Public, err = module.Generate(k.PKCS11, k.PIN, jwks.ES256); err != nil {
		t.Fatal(err)
	}
	w.write(k)
	w.eventually("the key of the token", func() bool { return w.serves(k) })
	w.eventuallySigns()
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	w.eventually("a failure while the token is away", func() bool { return w.sign() != nil })
	if !w.serves(k) {
		t.Error("the public key is not served while the token is away")
	}
	pid := w.awaitChild(0)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.awaitChild(pid)
	w.eventually("the public key to be served by a child that started without the token",
		func() bool { return w.serves(k) })
	if w.sign() == nil {
		t.Error("a child that started without the token signs")
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	w.eventuallySigns()
	if err := module.Close(); err != nil {
		t.Error(err)
	}
}
