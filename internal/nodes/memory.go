package nodes

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// memory is what Rollout remembers of a cluster between calls. To lose it costs patience and words, no more.
type memory struct {
	mu sync.Mutex
	// joining says since when a machine has been seen to run without a Node object, by machine.
	joining map[string]time.Time
	// refused are the evictions that the last Converge was refused, by pod.
	refused map[types.UID]refusal
	// tokens are the last looks at the tokens on machines, by machine.
	tokens map[string]look
}

// look is what the pods on a machine had.
type look struct {
	at      time.Time
	refresh Refresh
	pods    []podTokens
}

// same says that nothing happened since that matters: what was seen before a kubelet was started tells nothing of what
// the one before it had fetched and not yet written.
func (l look) same(r Refresh) bool {
	return l.refresh.KeyVersion == r.KeyVersion && l.refresh.Since.Equal(r.Since) && l.refresh.Kubelet.IsZero() == r.Kubelet.IsZero()
}

// tokensOf returns the last look at the tokens on a machine, and looks again when that is older than every.
func (m *memory) tokensOf(machine string, r Refresh, now time.Time, every time.Duration, read func() ([]podTokens, error)) ([]podTokens, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, ok := m.tokens[machine]; ok && last.same(r) && !now.Before(last.at) && now.Sub(last.at) < every {
		return last.pods, nil
	}
	delete(m.tokens, machine)
	pods, err := read()
	if err == nil && pods != nil {
		m.tokens[machine] = look{at: now, refresh: r, pods: pods}
	}
	return pods, err
}

func (r *Rollout) remember(uc *v1alpha1.UserCluster) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := types.NamespacedName{Namespace: uc.Namespace, Name: uc.Name}
	if r.memories[key] == nil {
		r.memories[key] = &memory{joining: map[string]time.Time{}, tokens: map[string]look{}}
	}
	return r.memories[key]
}

func (r *Rollout) forget(uc *v1alpha1.UserCluster) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memories, types.NamespacedName{Namespace: uc.Namespace, Name: uc.Name})
}

// await notes which machines run without a Node object, and forgets those that no longer do.
func (m *memory) await(views []view, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	joining := map[string]time.Time{}
	for _, v := range views {
		if !v.Machine || !v.Running || v.Registered {
			continue
		}
		joining[v.Name] = now
		if since, ok := m.joining[v.Name]; ok {
			joining[v.Name] = since
		}
	}
	m.joining = joining
}

// awaited is how long a machine has been seen to run without a Node object.
func (m *memory) awaited(machine string, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since, ok := m.joining[machine]; ok {
		return now.Sub(since)
	}
	return 0
}

// refuse replaces the refusals by those of a new pass; one that was there before keeps its time.
func (m *memory) refuse(refused map[types.UID]refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, r := range refused {
		if old, ok := m.refused[uid]; ok {
			r.since = old.since
			refused[uid] = r
		}
	}
	m.refused = refused
}

func (m *memory) refusal(pod types.UID) (refusal, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.refused[pod]
	return r, ok
}
