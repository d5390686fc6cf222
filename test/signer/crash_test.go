package signer_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/jwks"
)

// TestKillChild kills the child under load. Only what is in flight may fail, at most one request of each client, and no
// client may meet a refused connection, which would be followed by gRPC's back-off.
func TestKillChild(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	a := w.connect()
	for round := range 5 {
		l := a.begin()
		l.awaitMore(w)
		pid := w.awaitChild(0)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		l.awaitMore(w)
		w.awaitChild(pid)
		all := l.end()
		if n := len(failed(all)); n > clients {
			t.Errorf("round %d: %d requests failed, with %d clients: %v", round, n, clients, failed(all)[n-1].err)
		}
		t.Logf("round %d: %d of %d requests failed, longest pause %s", round, len(failed(all)), len(all),
			longestPause(all).Round(time.Millisecond))
	}
}

// TestHandOver hands over under load. Nothing may fail.
func TestHandOver(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	a := w.connect()
	l := a.begin()
	for range 10 {
		pid := w.awaitChild(0)
		l.awaitMore(w)
		if err := w.process.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		w.awaitChild(pid)
	}
	l.awaitMore(w)
	all := l.end()
	for _, o := range failed(all) {
		t.Errorf("a request failed: %v", o.err)
	}
	t.Logf("10 hand-overs: %d of %d requests failed, longest pause %s", len(failed(all)), len(all),
		longestPause(all).Round(time.Millisecond))
}

// TestRetire rotates under load. Each retired key makes the signer hand over to a new child, and nothing may fail.
func TestRetire(t *testing.T) {
	const rotations = 10
	w := newWorld(t, jwks.ES256)
	w.generate(jwks.ES256, rotations+1)
	w.write(1, 1)
	w.start()
	a := w.connect()
	l := a.begin()
	pid := w.awaitChild(0)
	for old := 1; old <= rotations; old++ {
		w.write(old+1, old, old+1)
		w.eventually("the new key to be served", func() bool { return served(t, a, w.kid(old+1)) })
		w.eventually("a token of the new key", func() bool { return a.mustIssue() == w.kid(old+1) })
		l.awaitMore(w) // so that no token of the old key is on its way
		w.write(old+1, old+1)
		pid = w.awaitChild(pid)
		l.awaitMore(w)
	}
	all := l.end()
	for _, o := range failed(all) {
		t.Errorf("a request failed: %v", o.err)
	}
	t.Logf("%d keys retired: %d of %d requests failed, longest pause %s", rotations, len(failed(all)), len(all),
		longestPause(all).Round(time.Millisecond))
}

// TestHungChild stops the child under load, so that requests wait until the watchdog kills it. Then it must go on as
// after a crash.
func TestHungChild(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	a := w.connect()
	l := a.begin()
	l.awaitMore(w)
	pid := w.awaitChild(0)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.awaitChild(pid)
	l.awaitMore(w)
	all := l.end()
	if n := len(failed(all)); n > clients {
		t.Errorf("%d requests failed, with %d clients: %v", n, clients, failed(all)[n-1].err)
	}
	t.Logf("%d of %d requests failed, longest pause %s with a watchdog of 1 s", len(failed(all)), len(all),
		longestPause(all).Round(time.Millisecond))
}

// TestKillAll kills the parent and with it the child. Verifying goes on, and issuing comes back with a new signer; how
// soon is up to the back-off of gRPC, since nobody listened in between.
func TestKillAll(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	a := w.connect()
	signed, _, err := a.issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.stop(syscall.SIGKILL)
	if err := a.accepts(t.Context(), signed); err != nil {
		t.Errorf("a token of a known key while there is no signer: %v", err)
	}
	w.start()
	began := time.Now()
	a.mustIssue() // without a fetch in between: the new signer knows what the API server has
	t.Logf("issued %s after the start of a new signer", time.Since(began).Round(time.Millisecond))
}

// TestRestartWithSocketActivation restarts the whole signer under load, while the test holds the socket as systemd
// would. Nothing may fail.
func TestRestartWithSocketActivation(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.listen()
	w.startActivated()
	a := w.connect()
	l := a.begin()
	for range 5 {
		l.awaitMore(w)
		w.stop(syscall.SIGTERM)
		w.startActivated()
	}
	l.awaitMore(w)
	all := l.end()
	for _, o := range failed(all) {
		t.Errorf("a request failed: %v", o.err)
	}
	t.Logf("5 restarts: %d of %d requests failed, longest pause %s", len(failed(all)), len(all),
		longestPause(all).Round(time.Millisecond))
}
