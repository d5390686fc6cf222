package signer

import (
	"context"
	"crypto"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

// opensOther opens the private key of version 2, whichever is asked for, as hardware does in which a key has the wrong
// name.
type opensOther struct{ w *world }

func (o opensOther) Open(keydir.Key) (crypto.Signer, error) { return backend.PEM{}.Open(o.w.keys[2]) }

// TestWrongKeyIsNeverServed has a private key that is another than the public key beside it: no waiting heals that.
func TestWrongKeyIsNeverServed(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.signer.env.files = opensOther{w}
	w.write(3, 1, 3)
	if n := len(w.fetch().Keys); n != 1 {
		t.Errorf("%d keys are served, want the one of the last good set", n)
	}
	w.wantSigner(1, "the next set has a wrong key")
	w.signer.env.files = w.hardware
	w.write(1, 1)

	s, err := newSigner(w.signer.opts.withoutMetrics(), environment{
		files: opensOther{w}, now: w.signer.env.now, bootClock: w.signer.env.bootClock,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.set.Load() != nil {
		t.Error("a set with a wrong key is served at the start")
	}
	if n := w.logged("keeping the last good key set"); n != 2 {
		t.Errorf("%d wrong sets are logged, want 2: %s", n, w.log.String())
	}
}

// withoutMetrics returns options for a second signer.
func (o Options) withoutMetrics() Options {
	o.Metrics = nil
	return o
}

// TestLogOfKeySets wants the log to name the keys of each set, once.
func TestLogOfKeySets(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.start()
	if w.logged(`"serving":false`) != 1 {
		t.Errorf("the log does not say that nothing is served: %s", w.log.String())
	}
	public := w.keys[2]
	public.Private = nil
	w.keys[2] = public
	w.write(1, 1, 2)
	w.signer.reload()
	for version, can := range map[string]string{"1": "can sign", "2": "verifies"} {
		kid, err := jwks.KeyID(w.keys[int(version[0]-'0')].Public)
		if err != nil {
			t.Fatal(err)
		}
		if want := "version " + version + ": ES256, kid " + kid + ", " + can; w.logged(want) != 1 {
			t.Errorf("the log names version %s %d times, want once %q", version, w.logged(want), want)
		}
	}
	if n := testutil.ToFloat64(w.signer.metrics.reloadErrors); n != 1 || w.logged(`"level":"ERROR"`) != 1 {
		t.Errorf("%v reload errors, want that of the start: %s", n, w.log.String())
	}
	damaged := filepath.Join(w.keyDir(), "..data", "1.key")
	if err := os.Truncate(damaged, 9); err != nil {
		t.Fatal(err)
	}
	w.signer.reload()
	w.write(1, 1)
	if err := os.Truncate(damaged, 9); err != nil {
		t.Fatal(err)
	}
	w.signer.reload()
	if n := w.logged(`"serving":true`); n != 2 {
		t.Errorf("a fault that came back is logged %d times in all, want 2", n)
	}
}

// TestServedByThePredecessor starts a signer while another one runs, as when one process hands over to the next.
func TestServedByThePredecessor(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	predecessor := w.client
	w.start()
	if _, err := predecessor.FetchKeys(t.Context(), &externaljwt.FetchKeysRequest{}); err != nil {
		t.Fatal(err)
	}
	w.wantSigner(0, "the predecessor has served the key just now")
	w.signer.reload()
	w.wantSigner(1, "read again")
}

// TestKeyThatComesBackAfterARestart takes a key away, which the API server then no longer has, and puts it back for the
// next process.
func TestKeyThatComesBackAfterARestart(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(2, 1, 2)
	w.start()
	w.fetch()
	w.write(1, 1)
	w.fetch()
	w.signer = nil
	w.write(2, 1, 2)
	w.start()
	w.wantSigner(1, "version 2 has come back")
}

// TestFetchThatNobodyWaitsFor gives up a call: the API server does not have the keys then.
func TestFetchThatNobodyWaitsFor(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.signer.FetchKeys(ctx, &externaljwt.FetchKeysRequest{}); status.Code(err) != codes.Canceled {
		t.Errorf("%v, want Canceled", err)
	}
	w.wantSigner(0, "the keys were not fetched")
}

// TestStateFileThatCannotBeWritten has a directory in its place, or in place of the file that replaces it.
func TestStateFileThatCannotBeWritten(t *testing.T) {
	for _, suffix := range []string{"", ".new"} {
		w := newWorld(t, jwks.ES256)
		w.write(1, 1)
		if err := os.MkdirAll(filepath.Join(w.stateFile()+suffix, "theirs"), 0o700); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.fetch()
		w.wantSigner(1, "fetched, although nothing is saved")
		if w.logged("after a restart, the signer will wait for the API server to fetch keys") != 2 {
			t.Errorf("the log does not name both times when it should have been written: %s", w.log.String())
		}
	}
}
