// Package hsm opens private keys that are in PKCS #11 tokens: hardware security modules, smart cards, SoftHSM.
//
// A key is named by a URI; see package pkcs11uri. Start with Module. It needs a build with cgo; without it, everything
// fails with ErrNotBuilt, and the rest of the program is a static binary. A private key never leaves its token:
// Module.Generate creates it there, marked sensitive and not extractable, and Module.Destroy destroys it there.
package hsm

import (
	"errors"

	"github.com/keyturn/keyturn/internal/hint"
)

// ErrNotBuilt is returned by everything in a build without cgo.
var ErrNotBuilt = hint.Errorf("build keyturn-signer with CGO_ENABLED=1, or keep the key in a file",
	"built without PKCS#11")

// ErrExists is returned by Generate if the PKCS #11 token already has a key of that name.
var ErrExists = errors.New("a key of this name exists already in the PKCS #11 token")
