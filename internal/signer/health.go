package signer

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// patience is how much longer than Options.Reload a turn of Keep may take, with slow hardware.
const patience = 30 * time.Second

// ErrStuck says that Keep hangs, which only a new process heals.
var ErrStuck = errors.New("reading the key directory hangs")

// Check proves that each key of the set that may sign does. It waits for the keys, so a key that hangs makes it hang.
func (s *Signer) Check() error {
	if turn := time.Duration(s.lastTurn.Load()); s.opts.BootClock()-turn > s.opts.Reload+patience {
		return ErrStuck
	}
	set := s.set.Load()
	if set == nil {
		return s.found(errNoKeys)
	}
	_, err := set.prove()
	return s.found(err)
}

// found keeps what Check found for Ready, and logs when it changes.
func (s *Signer) found(err error) error {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if old := s.problem.Swap(&text); old == nil && text != "" || old != nil && *old != text {
		s.opts.Log.Info("checked that each key signs", "problem", text)
	}
	return err
}

// Ready says why the signer cannot sign now, as far as is known without trying; nil if it can.
func (s *Signer) Ready() error {
	if _, err := s.signing(); err != nil {
		return err
	}
	if p := s.problem.Load(); p != nil && *p != "" {
		return errors.New(*p)
	}
	return nil
}

// Healthz serves /healthz, which says that the process answers, and /readyz, which says whether it can sign.
func (s *Signer) Healthz() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return mux
}
