package pools

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

// Memory caches data about one cluster between calls. Losing it costs only time, and details in texts. The zero value
// is ready for use.
type Memory struct {
	mu sync.Mutex
	// joining is when a machine was first seen running without a Node object, by machine.
	joining map[string]time.Time
	// refused are the refused evictions of the last plan, by pod.
	refused map[types.UID]eviction.Refusal
}

// await records which machines run without a Node object, and forgets those that no longer do.
func (m *Memory) await(machines []string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	joining := map[string]time.Time{}
	for _, name := range machines {
		joining[name] = now
		if since, ok := m.joining[name]; ok {
			joining[name] = since
		}
	}
	m.joining = joining
}

// awaited returns for how long a machine has been seen running without a Node object.
func (m *Memory) awaited(machine string, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since, ok := m.joining[machine]; ok {
		return now.Sub(since)
	}
	return 0
}

// refuse replaces the refusals by those of a new pass. A pod that was refused before keeps its time.
func (m *Memory) refuse(refused map[types.UID]eviction.Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, r := range refused {
		if old, ok := m.refused[uid]; ok {
			r.Since = old.Since
			refused[uid] = r
		}
	}
	m.refused = refused
}

// order returns the pods to evict, with those that were refused before last.
func (m *Memory) order(pods []corev1.Pod) []*corev1.Pod {
	var first, last []*corev1.Pod
	for i := range pods {
		_, refused := m.refusal(pods[i].UID)
		switch {
		case pods[i].DeletionTimestamp != nil:
		case refused:
			last = append(last, &pods[i])
		default:
			first = append(first, &pods[i])
		}
	}
	return append(first, last...)
}

func (m *Memory) refusal(pod types.UID) (eviction.Refusal, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.refused[pod]
	return r, ok
}
