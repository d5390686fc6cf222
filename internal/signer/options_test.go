package signer

import (
	"crypto"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/internal/signer/keydir"
	"github.com/keyturn/keyturn/jwks"
)

func TestOptionsAreChecked(t *testing.T) {
	good := Options{
		KeyDir: t.TempDir(), Reload: time.Minute, Backends: Backends{PEM: backend.PEM{}, PKCS11: backend.PEM{}},
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"KeyDir":          func(o *Options) { o.KeyDir = "" },
		"Reload":          func(o *Options) { o.Reload = 0 },
		"Backends.PEM":    func(o *Options) { o.Backends.PEM = nil },
		"Backends.PKCS11": func(o *Options) { o.Backends.PKCS11 = nil },
		"Log":             func(o *Options) { o.Log = nil },
		"Metrics":         func(o *Options) { o.Metrics = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil || err.Error() != "option "+name+" of the signer is missing" {
			t.Errorf("%v, want it to name %s and nothing else", err, name)
		}
	}
	if _, err := New(Options{}); err == nil || strings.Count(err.Error(), "missing") != 6 {
		t.Errorf("%v, want it to name all 6", err)
	}
}

// TestHoldsRetired goes through a rotation: only when a private key is gone does the process hold a retired one.
func TestHoldsRetired(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	check := func(want bool, when string) {
		t.Helper()
		if got := w.signer.HoldsRetired(); got != want {
			t.Errorf("%s: %t, want %t", when, got, want)
		}
	}
	w.write(1, 1)
	w.start()
	w.fetch()
	check(false, "at the start")
	w.write(1, 1, 2)
	check(false, "published")
	w.write(2, 1, 2)
	w.fetch()
	check(false, "switched")
	w.write(2, 2)
	check(true, "retired")
	w.write(2, 1, 2)
	check(true, "put back: what was read before is still there")
	w.start()
	check(false, "in a new process")
	public := w.keys[1]
	public.Private = nil
	w.keys[1] = public
	w.write(2, 1, 2)
	check(true, "only the private key is gone")
	w.start()
	w.write(2, 2)
	check(false, "a key without a private key is gone")
}

// TestUnchangedIsNotParsed has the signer read a directory again and again: the keys that it uses stay the same
// objects.
func TestUnchangedIsNotParsed(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	before := w.signer.set.Load()
	w.now = w.now.Add(time.Second)
	w.signer.reload()
	after := w.signer.set.Load()
	if after == before || !after.readAt.Equal(w.now) || after.keys[0] != before.keys[0] {
		t.Error("an unchanged directory was parsed again, or not read at all")
	}
	w.write(1, 1, 2)
	if w.signer.set.Load().keys[0] == before.keys[0] {
		t.Error("a changed directory was not parsed")
	}
}

// TestBackends opens a key where it is.
func TestBackends(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	elsewhere := &hardware{}
	elsewhere.set(errHardware, nil)
	b := Backends{PEM: w.hardware, PKCS11: elsewhere}
	inFile, inToken := w.keys[1], w.keys[1]
	inToken.PKCS11 = "pkcs11:token=t;object=o"
	for k, want := range map[*keydir.Key]error{&inFile: nil, &inToken: errHardware} {
		s, err := b.open(*k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", k.PKCS11, err, want)
		}
	}
}
