//go:build cgo

package hsm

import (
	"github.com/keyturn/keyturn/internal/hint"

	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/keyturn/keyturn/internal/signer/pkcs11uri"
	"github.com/keyturn/keyturn/signer/keydir"
)

// library is a PKCS #11 library from its initialization to its finalization. Its state is never valid for another one.
type library struct {
	ctx    *pkcs11.Ctx
	module *Module

	mu       sync.Mutex
	slots    map[pkcs11uri.URI]uint
	objects  map[pkcs11uri.URI]pkcs11.ObjectHandle
	idle     map[uint][]pkcs11.SessionHandle
	loggedIn map[uint]bool
}

func newLibrary(ctx *pkcs11.Ctx, m *Module) *library {
	return &library{
		ctx: ctx, module: m, slots: map[pkcs11uri.URI]uint{}, objects: map[pkcs11uri.URI]pkcs11.ObjectHandle{},
		idle: map[uint][]pkcs11.SessionHandle{}, loggedIn: map[uint]bool{},
	}
}

// The errors for objects that a URI names but that do not exist.
var (
	errNoToken = errors.New("no PKCS #11 token, or more than one, is what the URI says")
	errNoKey   = errors.New("no key, or more than one, in the PKCS #11 token is what the URI says")
)

// tokenOf returns only the part of a URI that names the token.
func tokenOf(u pkcs11uri.URI) pkcs11uri.URI {
	u.Object, u.ID, u.PINSource = "", "", ""
	return u
}

// slot finds the slot of a token.
func (l *library) slot(u pkcs11uri.URI) (uint, error) {
	u = tokenOf(u)
	l.mu.Lock()
	defer l.mu.Unlock()
	if slot, ok := l.slots[u]; ok {
		return slot, nil
	}
	all, err := l.ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing the slots: %w", err)
	}
	var found []uint
	for _, slot := range all {
		info, err := l.ctx.GetTokenInfo(slot)
		if err == nil && matches(info, u) {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return 0, errNoToken
	}
	l.slots[u] = found[0]
	return found[0], nil
}

func matches(info pkcs11.TokenInfo, u pkcs11uri.URI) bool {
	is := func(wanted, have string) bool { return wanted == "" || wanted == strings.TrimRight(have, " \x00") }
	return is(u.Token, info.Label) && is(u.Serial, info.SerialNumber) && is(u.Manufacturer, info.ManufacturerID) &&
		is(u.Model, info.Model)
}

// session calls f with a session of the token, logged in.
func (l *library) session(u pkcs11uri.URI, pin keydir.Secret, f func(pkcs11.SessionHandle) error) error {
	slot, err := l.slot(u)
	if err != nil {
		return err
	}
	if err := l.login(slot, u, pin); err != nil {
		return err
	}
	s, err := l.take(slot)
	if err != nil {
		return err
	}
	if err := f(s); err != nil {
		// It may be in the middle of an operation.
		_ = l.ctx.CloseSession(s)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle[slot] = append(l.idle[slot], s)
	return nil
}

func (l *library) take(slot uint) (pkcs11.SessionHandle, error) {
	l.mu.Lock()
	if n := len(l.idle[slot]); n > 0 {
		s := l.idle[slot][n-1]
		l.idle[slot] = l.idle[slot][:n-1]
		l.mu.Unlock()
		return s, nil
	}
	l.mu.Unlock()
	return l.open(slot)
}

func (l *library) open(slot uint) (pkcs11.SessionHandle, error) {
	s, err := l.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return 0, fmt.Errorf("opening a session: %w", err)
	}
	return s, nil
}

// login logs in all sessions of the token, with one that stays open, since closing the last one would log out. A PIN
// that a token refused is not tried again in this process.
func (l *library) login(slot uint, u pkcs11uri.URI, pin keydir.Secret) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(pin) == 0 || l.loggedIn[slot] {
		return nil
	}
	name := pinName(u, pin)
	if l.module.refused[name] {
		return errPIN
	}
	s, err := l.open(slot)
	if err != nil {
		return err
	}
	err = l.ctx.Login(s, pkcs11.CKU_USER, string(pin))
	if err == nil || errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		l.loggedIn[slot] = true
		return nil
	}
	_ = l.ctx.CloseSession(s)
	if !stale(err) {
		l.module.refused[name] = true
	}
	return fmt.Errorf("logging in: %w", err)
}

var errPIN = hint.Errorf("write the right one, and check that the token is not locked",
	"the PKCS #11 token has refused the PIN, which is not tried again")

// pinName identifies a PIN at a token, and shows neither.
func pinName(u pkcs11uri.URI, pin keydir.Secret) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", tokenOf(u), []byte(pin)))
	return hex.EncodeToString(sum[:])
}

// object finds the private key of a URI.
func (l *library) object(s pkcs11.SessionHandle, u pkcs11uri.URI) (pkcs11.ObjectHandle, error) {
	l.mu.Lock()
	handle, ok := l.objects[u]
	l.mu.Unlock()
	if ok {
		return handle, nil
	}
	found, err := l.find(s, u, pkcs11.CKO_PRIVATE_KEY)
	if err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, errNoKey
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.objects[u] = found[0]
	return found[0], nil
}

// find returns up to two objects of a class that match a URI.
func (l *library) find(s pkcs11.SessionHandle, u pkcs11uri.URI, class uint) ([]pkcs11.ObjectHandle, error) {
	if err := l.ctx.FindObjectsInit(s, append(named(u), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))); err != nil {
		return nil, fmt.Errorf("finding a key: %w", err)
	}
	found, _, err := l.ctx.FindObjects(s, 2)
	if err = errors.Join(err, l.ctx.FindObjectsFinal(s)); err != nil {
		return nil, fmt.Errorf("finding a key: %w", err)
	}
	return found, nil
}

// named returns the attributes with which a URI names an object.
func named(u pkcs11uri.URI) (all []*pkcs11.Attribute) {
	if u.Object != "" {
		all = append(all, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.Object))
	}
	if u.ID != "" {
		all = append(all, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(u.ID)))
	}
	return all
}

// forget drops what is cached of an object.
func (l *library) forget(u pkcs11uri.URI) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.objects, u)
}
