package process

import (
	"fmt"
	"time"
)

// attempts is what this Runner itself observed of the starts of a process. A new Runner may try at once.
type attempts struct {
	last     time.Time
	running  bool
	failures int
	end      error
}

const (
	// steady is how long a process must have lived for its end not to count as a failed start.
	steady = 20 * time.Second
	// firstBackOff doubles with each further failed start, up to maxBackOff.
	firstBackOff = 500 * time.Millisecond
	maxBackOff   = 10 * time.Second
)

func (r *Runner) noteStart(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.starts[name]
	r.starts[name] = attempts{last: time.Now(), running: true, failures: a.failures}
}

func (r *Runner) noteEnd(name string, err error) {
	asked := r.wasAskedToStop(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.starts[name]
	a.running, a.end = false, err
	if asked || time.Since(a.last) >= steady {
		a.failures = 0
	} else {
		a.failures++
	}
	r.starts[name] = a
}

func (r *Runner) wasAskedToStop(name string) bool {
	id, ok, err := r.recorded(name)
	if err != nil || !ok {
		return false
	}
	_, asked := r.askedToStop(name, id)
	return asked
}

// Died reports whether a process was started and has ended without being stopped.
func (r *Runner) Died(name string) bool {
	id, ok, err := r.recorded(name)
	if err != nil || !ok || id.Alive() {
		return false
	}
	_, asked := r.askedToStop(name, id)
	return !asked
}

// BackOff returns how long Start still does nothing: none after the first early end, then 0.5 s and up to 10 s.
func (r *Runner) BackOff(name string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.starts[name]
	if a.running || a.failures < 2 {
		return 0
	}
	wait := min(firstBackOff<<min(a.failures-2, 10), maxBackOff)
	return max(0, time.Until(a.last.Add(wait)))
}

// Why describes why a process that should run does not, with the last lines of its log; empty if it runs.
func (r *Runner) Why(name string) string {
	st, err := r.Observe(name)
	if err != nil || st.Running {
		return ""
	}
	if r.wasAskedToStop(name) {
		return name + " was stopped"
	}
	r.mu.Lock()
	a, ok := r.starts[name]
	r.mu.Unlock()
	why := name + " does not run"
	if ok && a.end != nil {
		why = fmt.Sprintf("%s ended (%v)", name, a.end)
	}
	if last := r.LastLines(name, 2); last != "" {
		why += "; last lines of its log: " + last
	}
	return why
}
