package fleetserver

import (
	"github.com/keyturn/keyturn/internal/hint"

	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/jwks"
)

// How long, and how many, operations are kept after they ended. Request IDs are valid for as long.
const (
	keepOperation  = time.Hour
	keepOperations = 500
)

const stateVersion = 1

// state is the content of the state file. A state that others can see is immutable, and so are its values.
type state struct {
	Version     int                  `json:"version"`
	Memberships map[string]record    `json:"memberships"`
	Operations  map[string]operation `json:"operations"`
	// Trust is by the name of the membership, which may already be gone.
	Trust map[string][]trust `json:"trust"`
}

// trust is what the STS accepts of a membership since a time.
type trust struct {
	From   time.Time `json:"from"`
	Issuer string    `json:"issuer,omitempty"`
	JWKS   []byte    `json:"jwks,omitempty"`
	keys   jwks.Set
}

func (t trust) same(issuer string, document []byte) bool {
	return t.Issuer == issuer && bytes.Equal(t.JWKS, document)
}

// inForce returns the trust at a time: the last one written whose time has come.
func inForce(all []trust, now time.Time) (trust, bool) {
	for _, t := range slices.Backward(all) {
		if !now.Before(t.From) {
			return t, true
		}
	}
	return trust{}, false
}

func (st *state) clone() *state {
	return &state{
		Version:     stateVersion,
		Memberships: maps.Clone(st.Memberships),
		Operations:  maps.Clone(st.Operations),
		Trust:       maps.Clone(st.Trust),
	}
}

// setTrust appends what is trusted from a time on.
func (st *state) setTrust(name string, from time.Time, a *authority) error {
	all := st.Trust[name]
	if len(all) > 0 && all[len(all)-1].same(a.issuer(), a.keySet()) {
		return nil
	}
	keys, err := parseKeys(a.keySet())
	if err != nil {
		return err
	}
	next := trust{From: from, Issuer: a.issuer(), JWKS: a.keySet(), keys: keys}
	st.Trust[name] = append(slices.Clone(all), next)
	return nil
}

// prune drops what is no longer needed.
func (st *state) prune(now time.Time) {
	maps.DeleteFunc(st.Memberships, func(_ string, r record) bool { return r.code(now) == "" })
	maps.DeleteFunc(st.Operations, func(_ string, o operation) bool { return now.After(o.EndTime.Add(keepOperation)) })
	st.pruneOldest()
	for name, all := range st.Trust {
		for len(all) > 1 && !now.Before(all[1].From) {
			all = all[1:]
		}
		st.Trust[name] = all
		if _, exists := st.Memberships[name]; !exists && len(all) == 1 && all[0].Issuer == "" && !now.Before(all[0].From) {
			delete(st.Trust, name)
		}
	}
}

func (st *state) pruneOldest() {
	if len(st.Operations) <= keepOperations {
		return
	}
	oldest := slices.SortedFunc(maps.Values(st.Operations),
		func(a, b operation) int { return a.EndTime.Compare(b.EndTime) })
	for _, o := range oldest[:len(oldest)-keepOperations] {
		delete(st.Operations, o.Name)
	}
}

// store keeps the state in a file. Readers never wait.
type store struct {
	path    string
	now     func() time.Time
	lock    *os.File
	writing sync.Mutex
	current atomic.Pointer[state]
}

func openStore(path string, now func() time.Time) (*store, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening fleet state: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("opening fleet state %s: another server uses it: %w", path, err), lock.Close())
	}
	st, err := readState(path)
	if err != nil {
		return nil, errors.Join(hint.Errorf("restore the file, or remove it to begin without memberships",
			"reading fleet state %s: %w", path, err), lock.Close())
	}
	s := &store{path: path, now: now, lock: lock}
	s.current.Store(st)
	return s, nil
}

// readState returns an empty state only if there is no file.
func readState(path string) (*state, error) {
	empty := &state{Memberships: map[string]record{}, Operations: map[string]operation{}, Trust: map[string][]trust{}}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return nil, err
	}
	st := &state{}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(st); err != nil {
		return nil, err
	}
	if d.More() || st.Version != stateVersion || st.Memberships == nil || st.Operations == nil || st.Trust == nil {
		return nil, fmt.Errorf("not a whole state of version %d", stateVersion)
	}
	for name, all := range st.Trust {
		for i := range all {
			if all[i].keys, err = parseKeys(all[i].JWKS); err != nil {
				return nil, fmt.Errorf("keys of %s: %w", name, err)
			}
		}
	}
	return st, nil
}

func (s *store) state() *state { return s.current.Load() }

// update changes the state. Only one change is made at a time. When it returns nil, the change is on disk. If change
// returns an error, nothing has changed.
func (s *store) update(change func(st *state, now time.Time) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	next, now := s.state().clone(), s.now().UTC()
	next.prune(now)
	if err := change(next, now); err != nil {
		return err
	}
	content, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encoding fleet state: %w", err)
	}
	if s.lock == nil {
		return errors.New("writing fleet state: the server is closed")
	}
	if err := atomicfile.Write(s.path, append(content, '\n')); err != nil {
		return err
	}
	// After a crash here, the change is on disk but not answered; the client retries.
	s.current.Store(next)
	return nil
}

// close waits for the current write.
func (s *store) close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}
