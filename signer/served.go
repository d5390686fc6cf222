package signer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// servedFile keeps which keys the API server has, for the next process.
type servedFile struct {
	path string
	boot string
}

// servedRecord is the file. It holds nothing secret.
type servedRecord struct {
	BootID string      `json:"bootID"`
	Keys   []servedKey `json:"keys"`
}

type servedKey struct {
	KeyID    string `json:"kid"`
	Excluded bool   `json:"excludeFromOIDCDiscovery,omitempty"`
	// At is nanoseconds of the boot clock.
	At time.Duration `json:"servedAt"`
}

// load notes in the set what the file knows. A file of another boot knows nothing, and a time that is still to come is
// now.
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

// save writes which keys of the set were served. One caller at a time.
func (f servedFile) save(s *keySet) error {
	if f.path == "" {
		return nil
	}
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

// replace does not sync: after a crash of the machine the file does not count, and the API server waits for this.
func (f servedFile) replace(content []byte) error {
	temporary := f.path + ".new"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, f.path)
}
