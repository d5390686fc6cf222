package tokens

import (
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/nodes"
)

// Memory is what is remembered of one cluster between calls. To lose it costs one more reading, no more. Its zero value
// is empty and ready for use.
type Memory struct {
	mu sync.Mutex
	// readings are the last readings of the tokens on machines, by machine.
	readings map[string]reading
}

// reading is what the pods on a machine had.
type reading struct {
	at      time.Time
	refresh nodes.Refresh
	pods    []podTokens
}

// holds reports whether what was read at a time is not older than every.
func holds(at, now time.Time, every time.Duration) bool {
	return !now.Before(at) && now.Sub(at) < every
}

// same reports whether nothing happened since that matters: what was seen before a kubelet was started shows nothing
// of what the one before it had fetched and not yet written.
func (r reading) same(is nodes.Refresh) bool {
	was := r.refresh
	return was.KeyVersion == is.KeyVersion && was.Since.Equal(is.Since) && was.Kubelet.IsZero() == is.Kubelet.IsZero()
}

// tokensOf returns the last reading of the tokens on a machine, and reads them again when that is older than every.
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

// keep forgets machines that are no longer refreshing.
func (m *Memory) keep(refreshing map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.readings {
		if !refreshing[name] {
			delete(m.readings, name)
		}
	}
}
