package signer

import (
	"errors"
	"time"
)

// patience is how much longer than Options.ReloadInterval one turn of keep may take, for slow hardware.
const patience = 30 * time.Second

// ErrStuck is returned by Check when reading the key directory hangs. Only a new process helps.
var ErrStuck = errors.New("reading the key directory hangs")

// Check proves that each key of the set that may sign works. It blocks while a key does.
func (s *Signer) Check() error {
	if turn := time.Duration(s.lastTurn.Load()); s.env.bootClock()-turn > s.opts.ReloadInterval+patience {
		return ErrStuck
	}
	set := s.set.Load()
	if set == nil {
		return s.remember(errNoKeys)
	}
	_, err := set.prove()
	return s.remember(err)
}

// remember keeps what Check found for Ready, and logs when it changes.
func (s *Signer) remember(err error) error {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if old := s.problem.Swap(&text); old == nil && text != "" || old != nil && *old != text {
		s.opts.Log.Info("checked that each key signs", "problem", text)
	}
	return err
}

// Ready returns why the signer cannot sign now, as far as it knows without trying. It returns nil if it can.
func (s *Signer) Ready() error {
	if _, err := s.signing(); err != nil {
		return err
	}
	if err := s.tokens.blocked(); err != nil {
		return err
	}
	if p := s.problem.Load(); p != nil && *p != "" {
		return errors.New(*p)
	}
	return nil
}

// HoldsRetired reports whether the memory of this process may hold a private key that has since been removed from the
// key directory. Go leaves copies of what it parses in memory that it no longer uses, so only a new process is certain
// not to hold the key.
func (s *Signer) HoldsRetired() bool { return s.retired.Load() }
