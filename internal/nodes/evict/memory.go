package evict

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

// Memory caches data about one cluster between calls. Losing it costs only one more list, and details in texts. The
// zero value is ready for use.
type Memory struct {
	mu sync.Mutex
	// last is the result of the last list of pods.
	last reading
	// refused are the evictions that were refused, by pod.
	refused map[types.UID]eviction.Refusal
	// around is what was read besides the pods.
	around surroundings
	// alive is the kid of the key for which a list showed no pod with a dead token.
	alive string
}

// reading is a list, and what it was made for.
type reading struct {
	at    time.Time
	how   v1alpha1.NodeRefresh
	keyID string
	since time.Time
	list  *list
	// used means that evictions were requested based on it.
	used bool
}

// pods returns the last list for a mode and a key, and lists pods again if that is older than every.
func (m *Memory) pods(
	how v1alpha1.NodeRefresh, keyID string, since, now time.Time, every time.Duration, read func() (*list, error),
) (*list, error) {
	if l := m.recent(how, keyID, since, now, every); l != nil {
		return l, nil
	}
	l, err := read()
	if err != nil {
		return nil, err
	}
	alive := map[types.UID]bool{}
	for _, p := range l.Old {
		alive[p.Object.UID] = !p.ending()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = reading{at: now, how: how, keyID: keyID, since: since, list: l}
	if m.alive = ""; len(l.dead) == 0 {
		m.alive = keyID
	}
	maps.DeleteFunc(m.refused, func(pod types.UID, _ eviction.Refusal) bool { return !alive[pod] })
	return l, nil
}

// recent returns the last list for a mode and a key; nil if there is none, or it is older than every.
func (m *Memory) recent(how v1alpha1.NodeRefresh, keyID string, since, now time.Time, every time.Duration) *list {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.last
	same := last.how == how && last.keyID == keyID && last.since.Equal(since)
	if same && !now.Before(last.at) && now.Sub(last.at) < every {
		return last.list
	}
	m.last = reading{}
	return nil
}

// use reports whether evictions may be requested based on a list: only once, since it does not show their result.
func (m *Memory) use(l *list) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.list != l || m.last.used {
		return false
	}
	m.last.used = true
	return true
}

// note records the result of an eviction. After a pod was evicted, the pods must be listed again.
func (m *Memory) note(pod types.UID, r eviction.Refusal, refused bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !refused {
		m.last = reading{}
		delete(m.refused, pod)
		return
	}
	if m.refused == nil {
		m.refused = map[types.UID]eviction.Refusal{}
	}
	if old, ok := m.refused[pod]; ok {
		r.Since = old.Since
	}
	m.refused[pod] = r
}

// allAlive reports whether a list showed no pod with a dead token. Pods that are created later have none.
func (m *Memory) allAlive(keyID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive == keyID
}

func (m *Memory) refusal(pod types.UID) (eviction.Refusal, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.refused[pod]
	return r, ok
}

// surroundings returns what was read for a key, and reads it if the last was for another one.
func (m *Memory) surroundings(
	keyID string, since time.Time, read func() (surroundings, error),
) (surroundings, error) {
	m.mu.Lock()
	around := m.around
	m.mu.Unlock()
	if !around.since.IsZero() && around.keyID == keyID && around.since.Equal(since) {
		return around, nil
	}
	around, err := read()
	if err != nil {
		return surroundings{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.around = around
	return around, nil
}

// forget drops everything about a rotation.
func (m *Memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.refused, m.around, m.alive = reading{}, nil, surroundings{}, ""
}
