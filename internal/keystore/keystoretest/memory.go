package keystoretest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/keystore"
)

// Memory is a Store in memory, for tests. The zero value is empty and ready for use.
type Memory struct {
	mu   sync.Mutex
	keys map[name]map[int]stored
}

// name is shared by clusters that had the same name at different times.
type name struct{ namespace, cluster string }

type stored struct {
	keystore.KeyPair
	uid string
}

func (s stored) check(c keystore.Cluster) error {
	if s.uid != c.UID {
		return fmt.Errorf("key version %d of UID %s: %w", s.Version, s.uid, keystore.ErrForeign)
	}
	return nil
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
	for _, k := range m.keys[nameOf(c)] {
		if err := k.check(c); err != nil {
			return nil, fmt.Errorf("listing key versions of %s: %w", c, err)
		}
		keys = append(keys, k.KeyPair)
	}
	slices.SortFunc(keys, func(a, b keystore.KeyPair) int { return a.Version - b.Version })
	return keys, nil
}

// Create implements keystore.Store.
func (m *Memory) Create(ctx context.Context, c keystore.Cluster, k keystore.KeyPair) error {
	err := errors.Join(ctx.Err(), k.Validate())
	if c.UID == "" {
		err = errors.Join(err, errors.New("the UID of the cluster is not given"))
	}
	if err != nil {
		return fmt.Errorf("creating key version %d of %s: %w", k.Version, c, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if is, ok := m.keys[nameOf(c)][k.Version]; ok {
		return fmt.Errorf("creating key version %d of %s: %w", k.Version, c, cmp.Or(is.check(c), keystore.ErrExists))
	}
	if m.keys == nil {
		m.keys = map[name]map[int]stored{}
	}
	if m.keys[nameOf(c)] == nil {
		m.keys[nameOf(c)] = map[int]stored{}
	}
	k.CreatedAt = time.Now()
	m.keys[nameOf(c)][k.Version] = stored{k, c.UID}
	return nil
}

func nameOf(c keystore.Cluster) name { return name{c.Namespace, c.Name} }

// Delete implements keystore.Store.
func (m *Memory) Delete(ctx context.Context, c keystore.Cluster, version int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := ctx.Err()
	if is, ok := m.keys[nameOf(c)][version]; ok {
		err = cmp.Or(err, is.check(c))
	}
	if err != nil {
		return fmt.Errorf("deleting key version %d of %s: %w", version, c, err)
	}
	delete(m.keys[nameOf(c)], version)
	return nil
}

// DeleteAll implements keystore.Store.
func (m *Memory) DeleteAll(ctx context.Context, c keystore.Cluster) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting the key versions of %s: %w", c, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.keys[nameOf(c)], func(_ int, k stored) bool { return k.check(c) == nil })
	return nil
}

// Forget implements keystore.Store. Memory caches nothing.
func (m *Memory) Forget(keystore.Cluster) {}
