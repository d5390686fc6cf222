//go:build cgo

package hsm

import (
	"github.com/keyturn/keyturn/internal/hint"

	"bytes"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyturn/keyturn/internal/signer/pkcs11uri"
	"github.com/keyturn/keyturn/signer"
	"github.com/keyturn/keyturn/signer/keydir"
)

// Module is a PKCS #11 library. It is loaded when a key is first used, and again after its token was lost. It is safe
// for concurrent use. A process must have only one for a library, since its state belongs to the process.
type Module struct {
	path string

	// use is held for reading to call the library, and for writing to load it again.
	use    sync.RWMutex
	loaded *library
	// next is when the library may be loaded again.
	next time.Time
	// refused are the PINs that tokens refused. Trying one repeatedly would lock the token.
	refused map[string]bool
}

var _ signer.Backend = (*Module)(nil)

// New returns the module of the library at an absolute path. It loads nothing yet.
func New(path string) *Module { return &Module{path: path, refused: map[string]bool{}} }

// Open implements signer.Backend. It does not touch the token.
func (m *Module) Open(k keydir.Key) (crypto.Signer, error) {
	u, err := pkcs11uri.Parse(k.PKCS11)
	if err != nil {
		return nil, err
	}
	if m.path == "" {
		return nil, hint.Errorf("name it by --pkcs11-module", "no PKCS #11 library is configured")
	}
	if (u.PINSource == "") != (len(k.PIN) == 0) {
		return nil, errors.New("PKCS #11 URI: a PIN and pin-source need each other")
	}
	return &key{module: m, uri: u, pin: bytes.Clone(k.PIN), public: k.Public}, nil
}

// Close unloads the library.
func (m *Module) Close() error {
	m.use.Lock()
	defer m.use.Unlock()
	m.next = time.Time{}
	return m.unload()
}

// pause is the minimum time between two loads of the library. While a token is missing, all signers fail, and each
// would load it again.
const pause = 200 * time.Millisecond

// do calls f with a loaded library. If f fails because the library's state is stale, do loads the library again, and
// calls f once more.
func (m *Module) do(f func(*library) error) error {
	l, err := m.try(nil, f)
	if l == nil || !stale(err) {
		return err
	}
	if _, again := m.try(l, f); !errors.Is(again, errAway) {
		return again
	}
	return err // which says more
}

// try calls f with a library other than the bad one, and returns it.
func (m *Module) try(bad *library, f func(*library) error) (*library, error) {
	m.use.RLock()
	if m.loaded == nil || m.loaded == bad {
		m.use.RUnlock()
		if err := m.load(bad); err != nil {
			return nil, err
		}
		m.use.RLock()
	}
	defer m.use.RUnlock()
	l := m.loaded
	if l == nil { // another goroutine found it bad in the meantime
		return nil, errAway
	}
	return l, f(l)
}

var errAway = errors.New("the PKCS #11 token is away")

// load loads the library to replace the bad one. It waits until nobody calls that.
func (m *Module) load(bad *library) error {
	m.use.Lock()
	defer m.use.Unlock()
	if m.loaded != nil && m.loaded != bad {
		return nil
	}
	now := time.Now()
	if now.Before(m.next) {
		return errAway
	}
	m.next = now.Add(pause)
	if err := m.unload(); err != nil {
		return err
	}
	ctx := pkcs11.New(m.path)
	if ctx == nil {
		return errors.New("the PKCS #11 library cannot be loaded")
	}
	if err := ctx.Initialize(); err != nil {
		ctx.Destroy()
		return fmt.Errorf("initialising the PKCS #11 library: %w", err)
	}
	m.loaded = newLibrary(ctx, m)
	return nil
}

func (m *Module) unload() error {
	l := m.loaded
	m.loaded = nil
	if l == nil {
		return nil
	}
	err := l.ctx.Finalize()
	l.ctx.Destroy()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)) ||
		errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)) {
		return nil
	}
	return err
}

// stale reports whether loading the library again may help: for every error of the library except those about PINs.
func stale(err error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return errors.Is(err, errNoToken) || errors.Is(err, errNoKey)
	}
	switch uint(code) {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_INVALID,
		pkcs11.CKR_PIN_LEN_RANGE:
		return false
	}
	return true
}
