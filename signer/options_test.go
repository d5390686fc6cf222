package signer

import (
	"crypto"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

func TestOptionsAreChecked(t *testing.T) {
	dir := t.TempDir()
	good := Options{
		KeyDir: filepath.Join(dir, "keys"), StateFile: filepath.Join(dir, "keys.json"), Metrics: prometheus.NewRegistry(),
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for option, spoil := range map[string]func(*Options){
		"KeyDir":         func(o *Options) { o.KeyDir = "" },
		"LedgerFile":     func(o *Options) { o.LedgerFile = filepath.Join(dir, "keys", "ledger") },
		"StateFile":      func(o *Options) { o.StateFile = filepath.Join(dir, "elsewhere", "..", "keys", "served.json") },
		"ReloadInterval": func(o *Options) { o.ReloadInterval = -1 },
		"DrainTimeout":   func(o *Options) { o.DrainTimeout = -1 },
	} {
		bad := good
		spoil(&bad)
		_, err := New(bad)
		if err == nil || !strings.HasPrefix(err.Error(), "option "+option+" of the signer ") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want it to name option %s and no other", err, option)
		}
	}
	if _, err := New(Options{ReloadInterval: -1, DrainTimeout: -1}); err == nil ||
		strings.Count(err.Error(), "option ") != 3 {
		t.Errorf("%v, want it to name all 3", err)
	}
	if _, err := New(good); err == nil {
		t.Error("a second signer registered the same metrics")
	}
}

// TestWithinKeyDirectory starts a signer without a state file in its key directory.
func TestWithinKeyDirectory(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	t.Chdir(w.keyDir())
	if _, err := New(Options{KeyDir: w.keyDir()}); err != nil {
		t.Error(err)
	}
}

func TestTimesOfOptions(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct{ given, want Options }{
		{Options{}, Options{ReloadInterval: 5 * time.Second, DrainTimeout: 10 * time.Second, Log: slog.Default()}},
		{Options{ReloadInterval: 1, DrainTimeout: 2, Log: log}, Options{ReloadInterval: 1, DrainTimeout: 2, Log: log}},
	} {
		if got := test.given.withDefaults(); got != test.want {
			t.Errorf("%+v becomes %+v, want %+v", test.given, got, test.want)
		}
	}
}

// TestDefaults has a signer with nothing but a key directory.
func TestDefaults(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	s, err := New(Options{KeyDir: w.keyDir()})
	if err != nil {
		t.Fatal(err)
	}
	w.signer, w.client = s, connect(t, s)
	w.fetch()
	w.wantSigner(1, "with defaults")
	inToken := w.keys[2]
	inToken.Private, inToken.PKCS11 = nil, "pkcs11:token=t;object=o"
	w.keys[2] = inToken
	w.write(1, 1, 2)
	if got := len(w.fetch().Keys); got != 1 {
		t.Errorf("%d keys are served, want 1: the other one needs option PKCS11", got)
	}
	if s.lastBad == "" || !strings.Contains(s.lastBad, "option PKCS11") {
		t.Errorf("%q does not name option PKCS11", s.lastBad)
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
	if n := testutil.ToFloat64(w.signer.metrics.reloadErrors); n != 0 {
		t.Errorf("%v reload errors", n)
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
	b := backends{files: w.hardware, pkcs11: elsewhere}
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
