package keydir_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

func TestNewKey(t *testing.T) {
	private, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keydir.NewKey(3, private)
	if err != nil {
		t.Fatal(err)
	}
	if signer, err := k.Signer(); err != nil || signer != private {
		t.Errorf("the key signs with another object than it was made from (%v)", err)
	}
	k.Private = nil
	if _, err := k.Signer(); err == nil {
		t.Error("a key whose private key was taken away signs")
	}
	inHardware := struct{ crypto.Signer }{private}
	if _, err := keydir.NewKey(3, inHardware); err == nil || !strings.HasPrefix(err.Error(), "key version 3: ") {
		t.Errorf("a key that is not in memory: %v, want an error that names the version", err)
	}
}

// ofOtherKind returns a key that no token is signed with.
func ofOtherKind(t *testing.T) keydir.Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keydir.NewKey(1, private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestReadAsAnotherUser reads as a user who is not root: files may be the reader's own or root's, and nobody else's.
func TestReadAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	const third = 1234
	for owner, want := range map[int]string{
		0: "", other: "", third: "belongs to user 1234",
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		set := newSet(t, 1)
		set.Keys[0].Private, set.Keys[0].PKCS11 = nil, "pkcs11:token=t;object=o"
		plain(t, dir, set)
		for _, path := range files(t, dir) {
			if err := os.Chown(path, owner, owner); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		openParents(t, dir)
		err := asUser(other, func() error {
			_, _, err := keydir.Read(dir)
			return err
		})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("files of user %d: %v, want %q", owner, err, want)
		}
	}
}

// TestSharedPIN has two keys of one token, which name one file for the PIN.
func TestSharedPIN(t *testing.T) {
	set := newSet(t, 3)
	for i := range 2 {
		set.Keys[i].Private, set.Keys[i].PIN = nil, keydir.Secret("4711")
		set.Keys[i].PKCS11 = fmt.Sprintf("pkcs11:token=t;object=o%d?pin-source=pin", i)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	write(t, dir, set)
	if got, _, err := keydir.Read(dir); err != nil || !equal(got, set) {
		t.Errorf("another set was read: %v", err)
	}
	set.Keys[1].PIN = keydir.Secret("4712")
	if err := keydir.Write(dir, set); err == nil || !strings.Contains(err.Error(), "file pin is named for two") {
		t.Errorf("two PINs in one file: %v", err)
	}
}
