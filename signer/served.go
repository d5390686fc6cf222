package signer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/keyturn/keyturn/internal/lockfile"
)

// servedFile records which keys the API server has, for the next process.
type servedFile struct {
	path string
	boot string
}

// servedRecord is the content of the file. None of it is secret.
type servedRecord struct {
	BootID string      `json:"bootID"`
	Keys   []servedKey `json:"keys"`
}

type servedKey struct {
	KeyID    string `json:"kid"`
	Excluded bool   `json:"excludeFromOIDCDiscovery,omitempty"`
	// At is in nanoseconds of the boot clock.
	At time.Duration `json:"servedAt"`
}

// load marks the keys of the set that the file records as served. It ignores a file of another boot, and treats a time
// in the future as now.
func (f servedFile) load(s *keySet, now time.Duration) error {
	if f.path == "" {
		return nil
	}
	raw, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var record servedRecord
	if err == nil && json.Unmarshal(raw, &record) != nil {
		err = errors.New("it is not JSON")
	}
	if err != nil {
		return fmt.Errorf("reading which keys were served from %s: %w", f.path, err)
	}
	if record.BootID != f.boot {
		return nil
	}
	for _, r := range record.Keys {
		for _, k := range s.keys {
			if k.KeyID == r.KeyID && k.excluded == r.Excluded {
				k.served.note(max(0, min(r.At, now)))
			}
		}
	}
	return nil
}

// save records which keys of the set were served, by this process or by another one that wrote the file: while one
// process hands over to the next, the API server may fetch from either.
func (f servedFile) save(s *keySet, now time.Duration) error {
	if f.path == "" {
		return nil
	}
	lock, err := lockfile.Wait(f.path + ".lock")
	if err != nil {
		return fmt.Errorf("saving which keys were served: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	_ = f.load(s, now) // an unreadable file is replaced
	record := servedRecord{BootID: f.boot}
	for _, k := range s.keys {
		if at := k.served.Load(); at != nil {
			record.Keys = append(record.Keys, servedKey{KeyID: k.KeyID, Excluded: k.excluded, At: *at})
		}
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding which keys were served: %w", err)
	}
	if err := f.replace(raw); err != nil {
		_ = os.Remove(f.path) // it may hold keys that are gone
		return fmt.Errorf("saving which keys were served: %w", err)
	}
	return nil
}

// replace does not sync. After a crash of the machine the file is invalid anyway, and the API server waits for this
// write.
func (f servedFile) replace(content []byte) error {
	temporary := f.path + ".new"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, f.path)
}
