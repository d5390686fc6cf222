package tokens

import (
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/nodes"
)

// Memory caches data about one cluster between calls. Losing it costs only one more reading. The zero value is ready
// for use.
type Memory struct {
	mu sync.Mutex
	// readings are the last readings of the tokens on machines, by machine.
	readings map[string]reading
}

// reading is the content of the token files on a machine.
type reading struct {
	at      time.Time
	refresh nodes.Refresh
	pods    []podTokens
}

// holds reports whether a reading at a time is still recent enough.
func holds(at, now time.Time, every time.Duration) bool {
	return !now.Before(at) && now.Sub(at) < every
}

// same reports whether the reading is of the same refresh and kubelet: a reading from before a kubelet started does not
// show what its predecessor had fetched and not yet written.
func (r reading) same(is nodes.Refresh) bool {
	was := r.refresh
	return was.KeyVersion == is.KeyVersion && was.Since.Equal(is.Since) && was.Kubelet.IsZero() == is.Kubelet.IsZero()
}

// tokensOf returns the last reading of the tokens on a machine, and reads them again if it is older than every.
func (m *Memory) tokensOf(
	machine string, r nodes.Refresh, now time.Time, every time.Duration, read func() ([]podTokens, error),
) ([]podTokens, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, ok := m.readings[machine]; ok && last.same(r) && holds(last.at, now, every) {
		return last.pods, nil
	}
	delete(m.readings, machine)
	pods, err := read()
	if err != nil {
		return nil, err
	}
	if m.readings == nil {
		m.readings = map[string]reading{}
	}
	m.readings[machine] = reading{at: now, refresh: r, pods: pods}
	return pods, nil
}

// keep drops machines that are no longer refreshing.
func (m *Memory) keep(refreshing map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.readings {
		if !refreshing[name] {
			delete(m.readings, name)
		}
	}
}
