package signercmd

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/signer/ledger"
)

// TestShowLedger shows the ledger of a signer while that runs, and says why there is none.
func TestShowLedger(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	if err := w.signFor(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	file := "--ledger-file=" + filepath.Join(w.dir, "run", "ledger")
	var stdout, stderr bytes.Buffer
	if code := Ledger([]string{file}, &stdout, &stderr); code != 0 {
		t.Fatalf("%d: %s", code, stderr.String())
	}
	var r ledger.Report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range r.Entries {
		found = found || e.Bound != nil && e.Bound.Name == "web"
	}
	if !found || r.Since.IsZero() {
		t.Errorf("it shows %+v", r)
	}
	for _, bad := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "--ledger-file is needed"},
		{[]string{file, "more"}, 2, "--ledger-file is needed"},
		{[]string{"--none"}, 2, "flag provided but not defined"},
		{[]string{file + "2"}, 1, "no such file"},
		{[]string{"--help"}, 0, "ledger-file"},
	} {
		stdout.Reset()
		stderr.Reset()
		if code := Ledger(bad.args, &stdout, &stderr); code != bad.code || !strings.Contains(stderr.String(), bad.want) {
			t.Errorf("%q: %d, %s", bad.args, code, stderr.String())
		}
		if stdout.Len() > 0 {
			t.Errorf("%q: it writes %s", bad.args, stdout.String())
		}
	}
}
