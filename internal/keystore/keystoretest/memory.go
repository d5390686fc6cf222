package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/keystore"
)

// Memory is a Store in memory, for tests. Its zero value is empty and ready for use.
type Memory struct {
	mu   sync.Mutex
	keys map[keystore.Cluster]map[int]keystore.KeyPair
}

var _ keystore.Store = (*Memory)(nil)

// List implements keystore.Store.
func (m *Memory) List(ctx context.Context, c keystore.Cluster) ([]keystore.KeyPair, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("listing key versions of %s: %w", c, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []keystore.KeyPair
	for _, k := range m.keys[c] {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b keystore.KeyPair) int { return a.Version - b.Version })
	return keys, nil
}

// Create implements keystore.Store.
func (m *Memory) Create(ctx context.Context, c keystore.Cluster, k keystore.KeyPair) error {
	if err := errors.Join(ctx.Err(), k.Validate()); err != nil {
		return fmt.Errorf("creating key version %d of %s: %w", k.Version, c, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.keys[c][k.Version]; ok {
		return fmt.Errorf("creating key version %d of %s: %w", k.Version, c, keystore.ErrExists)
	}
	if m.keys == nil {
		m.keys = map[keystore.Cluster]map[int]keystore.KeyPair{}
	}
	if m.keys[c] == nil {
		m.keys[c] = map[int]keystore.KeyPair{}
	}
	k.CreatedAt = time.Now()
	m.keys[c][k.Version] = k
	return nil
}

// Delete implements keystore.Store.
func (m *Memory) Delete(ctx context.Context, c keystore.Cluster, version int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting key version %d of %s: %w", version, c, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.keys[c], version)
	return nil
}
