package keystoretest

import (
	"context"
	"fmt"
	"sync"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/keystore"
)

// Faulty is a Store whose writes fail with ErrAmbiguous as set by Fail.
type Faulty struct {
	keystore.Store

	mu     sync.Mutex
	faults []faults.Fault
}

// Fail sets what happens to the next writes, one fault each. Later writes pass.
func (f *Faulty) Fail(next ...faults.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = next
}

// Create implements keystore.Store.
func (f *Faulty) Create(ctx context.Context, c keystore.Cluster, k keystore.KeyPair) error {
	return f.write(func() error { return f.Store.Create(ctx, c, k) })
}

// Delete implements keystore.Store.
func (f *Faulty) Delete(ctx context.Context, c keystore.Cluster, version int) error {
	return f.write(func() error { return f.Store.Delete(ctx, c, version) })
}

// DeleteAll implements keystore.Store.
func (f *Faulty) DeleteAll(ctx context.Context, c keystore.Cluster) error {
	return f.write(func() error { return f.Store.DeleteAll(ctx, c) })
}

func (f *Faulty) write(do func() error) error {
	switch f.next() {
	case faults.Failed:
		return fmt.Errorf("injected failure: %w", keystore.ErrAmbiguous)
	case faults.FailedButPersisted:
		if err := do(); err != nil {
			return err
		}
		return fmt.Errorf("injected failure after the write: %w", keystore.ErrAmbiguous)
	}
	return do()
}

func (f *Faulty) next() faults.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.faults) == 0 {
		return faults.None
	}
	fault := f.faults[0]
	f.faults = f.faults[1:]
	return fault
}
