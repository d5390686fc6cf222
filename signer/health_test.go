package signer

import (
	"errors"
	"testing"

	"github.com/keyturn/keyturn/jwks"
)

// TestProblemsAreLoggedOnce checks a signer whose hardware goes away, fails in another way, and comes back. A line is
// logged when that changes, and Ready has what Check found last.
func TestProblemsAreLoggedOnce(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	if err := w.signer.Ready(); err != nil {
		t.Errorf("before the first check: %v", err)
	}
	lines := 0
	for _, step := range []struct {
		when  string
		fail  error
		lines int
	}{
		{"good at the start", nil, 0},
		{"good again", nil, 0},
		{"away", errHardware, 1},
		{"still away", errHardware, 0},
		{"away for another reason", errors.New("the session has ended"), 1},
		{"back", nil, 1},
		{"still there", nil, 0},
	} {
		w.hardware.set(step.fail, nil)
		check, ready := w.signer.Check(), w.signer.Ready()
		if !errors.Is(check, step.fail) || (ready == nil) != (check == nil) || ready != nil &&
			ready.Error() != check.Error() {
			t.Errorf("%s: Check %v, Ready %v", step.when, check, ready)
		}
		lines += step.lines
		if got := w.logged("checked that each key signs"); got != lines {
			t.Errorf("%s: %d lines are logged in all, want %d", step.when, got, lines)
		}
	}
}

func TestProblemOfTheFirstCheckIsLogged(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.hardware.set(errHardware, nil)
	w.write(1, 1)
	w.start()
	if err := w.signer.Check(); !errors.Is(err, errHardware) || w.logged("checked that each key signs") != 1 {
		t.Errorf("%v, and the log is %s", err, w.log.String())
	}
}
