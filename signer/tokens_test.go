package signer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/ledger"
)

// noting is a world whose signer has a ledger and signs with key version 1.
func noting(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, jwks.ES256)
	w.ledgerFile = filepath.Join(w.dir, "ledger")
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	return w
}

// signPod has a token of a pod signed, which expires in an hour.
func (w *world) signPod() error {
	w.t.Helper()
	claims := strings.Replace(boundClaims, "1831536000", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10), 1)
	_, err := w.signer.Sign(w.t.Context(),
		&externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
	return err
}

// kid returns the key ID of a key version.
func (w *world) kid(version int) string {
	w.t.Helper()
	kid, err := jwks.KeyID(w.keys[version].Public)
	if err != nil {
		w.t.Fatal(err)
	}
	return kid
}

// wantNoted wants the ledger to have tokens of the pod of these keys, and no others.
func (w *world) wantNoted(versions ...int) {
	w.t.Helper()
	r, err := ledger.Read(w.ledgerFile, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	var want []string
	for _, version := range versions {
		want = append(want, w.kid(version))
	}
	slices.Sort(want)
	pod := ledger.Object{Kind: "Pod", Name: "web-5d78c9869d-2xk7q", UID: "4d10a0b0-6c3f-4d10-a0b0-a0f6f3f3b2a0"}
	var got []string
	for _, e := range r.Entries {
		got = append(got, e.KeyID)
		if e.Bound == nil || *e.Bound != pod || e.Namespace != "default" || e.ServiceAccount != "web" || e.Coarse ||
			len(e.Audiences) != 1 || e.Audiences[0] != "https://kubernetes.default.svc.cluster.local" {
			w.t.Errorf("noted as %+v", e)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("noted of the keys %q, want %q", got, want)
	}
}

// wantFigures wants as many metrics of the ledger, besides those of a key.
func (w *world) wantFigures(want int, when string) {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "keyturn_signer_ledger_") && !strings.Contains(f.GetName(), "expiry") {
			got = append(got, f.GetName())
		}
	}
	if len(got) != want {
		w.t.Errorf("%s there are the metrics %q, want %d", when, got, want)
	}
}

func TestSignNotes(t *testing.T) {
	w := noting(t)
	if err := w.signPod(); err != nil {
		t.Fatal(err)
	}
	w.wantNoted(1)
	w.write(2, 1, 2)
	if err := w.signPod(); err != nil {
		t.Fatal(err)
	}
	w.wantNoted(1, 2)
	w.write(2, 2) // tokens of the old key live on
	w.start()
	w.fetch()
	w.wantNoted(1, 2)
	raw, err := os.ReadFile(w.ledgerFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"0f6f3f3b-2a06-4d5a-a6b6-6c3f4d10a0b0", "warnafter", "eyJ"} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%q is in the ledger", secret)
		}
	}
	w.signer.tokens.tend()
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "keyturn_signer_ledger_entries":
				if n := m.GetGauge().GetValue(); n != 2 {
					t.Errorf("%v entries are counted", n)
				}
			case "keyturn_signer_ledger_coarse_entries":
				if n := m.GetGauge().GetValue(); n != 0 {
					t.Errorf("%v coarse entries are counted", n)
				}
			case "keyturn_signer_ledger_last_expiry_timestamp_seconds":
				versions[m.GetLabel()[0].GetValue()] = m.GetLabel()[1].GetValue()
			}
		}
	}
	if len(versions) != 2 || versions[w.kid(1)] != "" || versions[w.kid(2)] != "2" {
		t.Errorf("the versions of the keys with tokens are %v", versions)
	}
}

// TestLedgerThatBreaks takes the ledger's memory away. Tokens are signed, nothing passes for a ledger, and another one
// begins.
func TestLedgerThatBreaks(t *testing.T) {
	w := noting(t)
	w.wantFigures(3, "from the start")
	if err := os.Truncate(w.ledgerFile, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.signPod(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ledger.Read(w.ledgerFile, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading the ledger: %v", err)
	}
	if n := w.logged("tokens are not recorded"); n != 1 {
		t.Errorf("that is logged %d times", n)
	}
	w.wantFigures(0, "without a ledger")
	w.signer.tokens.tend()
	if err := w.signPod(); err != nil {
		t.Fatal(err)
	}
	w.wantNoted(1)
	if r, err := ledger.Read(w.ledgerFile, time.Now()); err != nil || !r.Since.After(time.Now()) {
		t.Errorf("the new ledger is complete since %v, %v", r.Since, err)
	}
}

// TestLedgerIsGivenUpOnce has two calls find a ledger broken: the second must not remove the next one.
func TestLedgerIsGivenUpOnce(t *testing.T) {
	w := noting(t)
	broken := w.signer.tokens.state.Load()
	w.signer.tokens.giveUp(broken, errors.New("it is broken"))
	w.signer.tokens.tend()
	next := w.signer.tokens.state.Load()
	if got := w.signer.tokens.giveUp(broken, errors.New("it is broken")); got != next || got.ledger == nil {
		t.Errorf("given up twice, the ledger is %+v", got)
	}
	if err := w.signPod(); err != nil {
		t.Fatal(err)
	}
	w.wantNoted(1)
}

// TestFiguresWithoutKeys has a ledger before there is a key set.
func TestFiguresWithoutKeys(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.ledgerFile = filepath.Join(w.dir, "ledger")
	w.start()
	w.wantFigures(3, "without a key set")
}

// TestLedgerThatCannotBeRemoved signs nothing as long as there may be a ledger that claims less than there is.
func TestLedgerThatCannotBeRemoved(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.ledgerFile = filepath.Join(w.dir, "ledger")
	inside := filepath.Join(w.ledgerFile, "file")
	if err := os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	if err := w.signPod(); err == nil {
		t.Error("a token is signed")
	}
	if err := w.signer.Ready(); err == nil {
		t.Error("the signer is ready")
	}
	if err := os.Remove(inside); err != nil {
		t.Fatal(err)
	}
	w.signer.tokens.tend() // removes the directory
	w.signer.tokens.tend()
	if err := errors.Join(w.signPod(), w.signer.Ready()); err != nil {
		t.Error(err)
	}
	w.wantNoted(1)
}

// TestLedgerThatIsRemoved has somebody remove the file of a signer that runs.
func TestLedgerThatIsRemoved(t *testing.T) {
	w := noting(t)
	if err := os.Remove(w.ledgerFile); err != nil {
		t.Fatal(err)
	}
	w.signer.tokens.tend()
	if err := w.signPod(); err != nil {
		t.Fatal(err)
	}
	w.wantNoted(1)
}
