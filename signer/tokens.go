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

// overlap is how long, beside its drain time, a signer that this one takes over from may go on.
const overlap = time.Minute

// tokens keeps the ledger. Without a ledger that can be written, no file may be left that passes for one: as long as
// there is, nothing is signed.
type tokens struct {
	path  string
	opts  ledger.Options
	state atomic.Pointer[tokensState]
	stats atomic.Pointer[ledger.Stats]
	// changing is held by whoever replaces the state. Sign holds it only when the file cannot be written.
	changing sync.Mutex
}

// tokensState has a ledger, or a reason not to sign, or neither.
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

// note notes a token that was signed, before it is given out.
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
		return status.Errorf(codes.Unavailable, "the token cannot be noted: %v", s.blocked)
	}
	return nil
}

// giveUp gives a ledger up that does not work, unless somebody has done that, and returns the state after it.
func (t *tokens) giveUp(was *tokensState, why error) *tokensState {
	t.changing.Lock()
	defer t.changing.Unlock()
	if now := t.state.Load(); now != was {
		return now
	}
	return t.without(why)
}

// without goes on without a ledger, whose file is removed. It must hold changing.
func (t *tokens) without(why error) *tokensState {
	s := &tokensState{}
	if err := ledger.Remove(t.path); err != nil {
		s.blocked = errors.Join(why, err)
	}
	if was := t.state.Swap(s); was.ledger != nil || fmt.Sprint(was.blocked) != fmt.Sprint(s.blocked) {
		t.opts.Log.Error("tokens are not noted", "error", why, "signing", s.blocked == nil)
	}
	t.stats.Store(nil)
	return s
}

// tend opens the ledger if it is not open, and finds out how full it is. One caller at a time.
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
		t.opts.Log.Error("the ledger is opened again", "error", err)
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

// blocked returns why nothing is signed, if the ledger is why.
func (t *tokens) blocked() error { return t.state.Load().blocked }

// close ends the ledger.
func (t *tokens) close() {
	t.changing.Lock()
	defer t.changing.Unlock()
	if s := t.state.Load(); s.ledger != nil {
		if err := s.ledger.Close(); err != nil {
			t.opts.Log.Error("the ledger may not outlive a stop of the machine", "error", err)
		}
	}
}
