//go:build !cgo

package hsm

import (
	"errors"
	"testing"

	"github.com/keyturn/keyturn/signer/keydir"
)

func TestNotBuilt(t *testing.T) {
	if _, err := New("/lib.so").Open(keydir.Key{PKCS11: "pkcs11:token=t;object=o"}); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("%v, want %v", err, ErrNotBuilt)
	}
}
