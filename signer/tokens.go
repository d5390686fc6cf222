package signer

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyturn/keyturn/signer/ledger"
)

// overlap is how much longer than its drain timeout a predecessor of this signer may still sign.
const overlap = time.Minute

// tokens keeps the ledger. If the ledger cannot be written, no file may stay that looks like a complete one: nothing is
// signed as long as it exists.
type tokens struct {
	path  string
	opts  ledger.Options
	state atomic.Pointer[tokensState]
	stats atomic.Pointer[ledger.Stats]
	// changing is held to replace the state. Sign holds it only when the file cannot be written.
	changing sync.Mutex
}

// tokensState has a ledger, or an error that keeps the signer from signing, or neither.
type tokensState struct {
	ledger  *ledger.Ledger
	blocked error
}

func newTokens(o Options) *tokens {
	t := &tokens{path: o.LedgerFile, opts: ledger.Options{Overlap: o.DrainTimeout + overlap, Log: o.Log}}
	t.state.Store(&tokensState{})
	t.tend()
	return t
}

// note records a signed token, before the caller returns it.
func (t *tokens) note(of *ledger.Token) error {
	s := t.state.Load()
	if s.ledger != nil {
		err := s.ledger.Note(of)
		if err == nil {
			return nil
		}
		s = t.giveUp(s, err)
	}
	if s.blocked != nil {
		return status.Errorf(codes.Unavailable, "cannot record the token: %v", s.blocked)
	}
	return nil
}

// giveUp gives up a broken ledger, unless another caller already has, and returns the new state.
func (t *tokens) giveUp(was *tokensState, why error) *tokensState {
	t.changing.Lock()
	defer t.changing.Unlock()
	if now := t.state.Load(); now != was {
		return now
	}
	return t.without(why)
}

// without removes the file of the ledger and goes on without one. The caller must hold changing.
func (t *tokens) without(why error) *tokensState {
	s := &tokensState{}
	if err := ledger.Remove(t.path); err != nil {
		s.blocked = errors.Join(why, err)
	}
	if was := t.state.Swap(s); was.ledger != nil || fmt.Sprint(was.blocked) != fmt.Sprint(s.blocked) {
		t.opts.Log.Error("signed tokens are not recorded", "error", why, "signing", s.blocked == nil)
	}
	t.stats.Store(nil)
	return s
}

// tend opens the ledger if it is not open, and updates its statistics. Only one goroutine may call it at a time.
func (t *tokens) tend() {
	if t.path == "" {
		return
	}
	t.changing.Lock()
	defer t.changing.Unlock()
	s := t.state.Load()
	if s.ledger != nil {
		stats, err := s.ledger.Tend()
		if err == nil {
			t.stats.Store(&stats)
			return
		}
		t.opts.Log.Error("opening the ledger again", "error", err)
		_ = s.ledger.Close() // it is broken
	}
	opened, err := ledger.Open(t.path, t.opts)
	if err != nil {
		t.without(err)
		return
	}
	t.state.Store(&tokensState{ledger: opened})
	if stats, err := opened.Tend(); err == nil {
		t.stats.Store(&stats)
	}
}

// blocked returns the error of the ledger that keeps the signer from signing, if there is one.
func (t *tokens) blocked() error { return t.state.Load().blocked }

// close closes the ledger.
func (t *tokens) close() {
	t.changing.Lock()
	defer t.changing.Unlock()
	if s := t.state.Load(); s.ledger != nil {
		if err := s.ledger.Close(); err != nil {
			t.opts.Log.Error("the ledger may be lost if the machine stops", "error", err)
		}
	}
}
