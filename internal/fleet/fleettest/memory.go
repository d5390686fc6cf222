package fleettest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// Memory is a destination in memory that immediately accepts what is published. The zero value is empty and ready for
// use.
type Memory struct {
	mu        sync.Mutex
	published map[string]bool // by kid
	stage     int
	at        time.Time
	writes    int
	fault     faults.Fault
}

var _ fleet.Publisher = (*Memory)(nil)

// Name implements fleet.Publisher.
func (m *Memory) Name() string { return "memory" }

// Observe implements fleet.Publisher.
func (m *Memory) Observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	if err := ctx.Err(); err != nil {
		return fleet.Observation{}, fmt.Errorf("observing memory: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := fleet.Observation{PublishedAt: m.at, CertainAt: m.at}
	for _, k := range keys {
		if m.published[k.KeyID] {
			o.Accepts = append(o.Accepts, k.Version)
		} else {
			o.Refuses = append(o.Refuses, k.Version)
		}
	}
	slices.Sort(o.Accepts)
	slices.Sort(o.Refuses)
	if foreign := len(m.published) - len(o.Accepts); foreign > 0 {
		o.Waiting = fmt.Sprintf("%d keys that the cluster does not have", foreign)
	}
	return o, nil
}

// Publish implements fleet.Publisher.
func (m *Memory) Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error {
	own, want := map[string]bool{}, map[string]bool{}
	for _, k := range keys {
		own[k.KeyID] = true
		if slices.Contains(versions, k.Version) {
			want[k.KeyID] = true
		}
	}
	if len(want) == 0 {
		return errors.New("publishing to memory: no keys")
	}
	if err := m.check(own, fleet.Stage(versions)); err != nil {
		return fmt.Errorf("publishing to memory: %w", err)
	}
	return m.write(ctx, "publishing to", want, fleet.Stage(versions))
}

func (m *Memory) check(own map[string]bool, stage int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stage > stage {
		return fleet.ErrStale
	}
	for kid := range m.published {
		if !own[kid] {
			return fleet.ErrForeign
		}
	}
	return nil
}

// Remove implements fleet.Publisher.
func (m *Memory) Remove(ctx context.Context) error {
	return m.write(ctx, "removing from", nil, 0)
}

// AddKey publishes one more key.
func (m *Memory) AddKey(k jwks.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.published[k.KeyID] = true
}

// Fail makes the next write fail.
func (m *Memory) Fail(fault faults.Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// Writes counts the writes.
func (m *Memory) Writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func (m *Memory) write(ctx context.Context, doing string, want map[string]bool, stage int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s memory: %w", doing, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if sameKeys(m.published, want) {
		return nil
	}
	fault := m.fault
	m.fault = 0
	if m.writes++; fault != faults.Failed {
		m.published, m.stage, m.at = want, stage, time.Now()
		if want == nil {
			m.at = time.Time{}
		}
	}
	if fault != 0 {
		return fmt.Errorf("%s memory: injected failure", doing)
	}
	return nil
}

func sameKeys(a, b map[string]bool) bool {
	for kid := range a {
		if !b[kid] {
			return false
		}
	}
	return len(a) == len(b)
}
