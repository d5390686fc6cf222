//go:build cgo

package hsm

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os/exec"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keyturn/keyturn/internal/signer/pkcs11uri"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

func (h *softHSM) sign(k keydir.Key) error {
	h.t.Helper()
	s, err := h.module.Open(k)
	if err != nil {
		h.t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(rand.Text()))
	_, err = s.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}

// TestTokenAway checks that a token that is away does not sign, as the conformance suite assumes.
func TestTokenAway(t *testing.T) {
	h := newSoftHSM(t)
	k := h.generate(t, 1, jwks.ES256)
	if err := h.sign(k); err != nil {
		t.Fatal(err)
	}
	back := h.away(t)
	if err := h.sign(k); err == nil {
		t.Error("a token that is away signs")
	}
	back()
}

func TestPrivateKeyCannotLeave(t *testing.T) {
	h := newSoftHSM(t)
	for version, algorithm := range map[int]string{1: jwks.ES256, 2: jwks.RS256} {
		k := h.generate(t, version, algorithm)
		u, err := pkcs11uri.Parse(k.PKCS11)
		if err != nil {
			t.Fatal(err)
		}
		err = h.module.do(func(l *library) error {
			return l.session(u, k.PIN, func(s pkcs11.SessionHandle) error {
				object, err := l.object(s, u)
				if err != nil {
					return err
				}
				for _, secret := range []uint{pkcs11.CKA_VALUE, pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1} {
					got, err := l.ctx.GetAttributeValue(s, object, []*pkcs11.Attribute{pkcs11.NewAttribute(secret, nil)})
					if err == nil && len(got[0].Value) > 0 {
						t.Errorf("%s: attribute %#x of the private key can be read", algorithm, secret)
					}
				}
				for attribute, want := range map[uint]byte{
					pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_ALWAYS_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0,
					pkcs11.CKA_NEVER_EXTRACTABLE: 1,
				} {
					got, err := l.ctx.GetAttributeValue(s, object, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
					if err != nil || got[0].Value[0] != want {
						t.Errorf("%s: attribute %#x is not %d: %v", algorithm, attribute, want, err)
					}
				}
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestGenerateAndDestroy(t *testing.T) {
	h := newSoftHSM(t)
	k := h.generate(t, 1, jwks.ES256)
	if _, err := h.module.Generate(k.PKCS11, k.PIN, jwks.ES256); !errors.Is(err, ErrExists) {
		t.Errorf("generating a key that is there: %v, want %v", err, ErrExists)
	}
	if err := h.sign(k); err != nil {
		t.Errorf("the key after that: %v", err)
	}
	for range 2 { // one that is gone is no error
		if err := h.module.Destroy(k.PKCS11, k.PIN); err != nil {
			t.Fatal(err)
		}
	}
	again := h.generate(t, 1, jwks.ES256)
	if err := h.sign(again); err != nil {
		t.Errorf("a key of the same name: %v", err)
	}
}

// TestWrongPINIsTriedOnce keeps the token from being locked by a watchdog that signs every second.
func TestWrongPINIsTriedOnce(t *testing.T) {
	h := newSoftHSM(t)
	k := h.generate(t, 1, jwks.ES256)
	if err := h.module.Close(); err != nil { // and with it the login
		t.Fatal(err)
	}
	wrong := k
	wrong.PIN = keydir.Secret("9384756")
	if err := h.sign(wrong); !errors.Is(err, pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)) {
		t.Fatalf("with a wrong PIN: %v", err)
	}
	for range 3 {
		if err := h.sign(wrong); !errors.Is(err, errPIN) {
			t.Errorf("with a wrong PIN again: %v, want %v", err, errPIN)
		}
	}
	if err := h.sign(k); err != nil {
		t.Errorf("with the right PIN: %v", err)
	}
}

func TestOnlyOneTokenOfALabel(t *testing.T) {
	h := newSoftHSM(t)
	k := h.generate(t, 1, jwks.ES256)
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin,
		"--so-pin", pin).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := h.module.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.sign(k); !errors.Is(err, errNoToken) {
		t.Errorf("with two tokens of one label: %v, want %v", err, errNoToken)
	}
}
