package nodestest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/nodes"
)

// Machines are machines in memory. They start and stop at once. The zero value is empty and ready for use.
type Machines struct {
	// Join is called when a machine starts, for its kubelet, and Report when its kubelet was restarted. Both may be
	// nil.
	Join, Report func(ctx context.Context, name string) error

	mu       sync.Mutex
	machines map[string]nodes.Machine
	tokens   map[nodes.TokenFile]nodes.Token
	restarts map[string]int
	most     int
	blind    bool
	fault    func() faults.Fault
}

var (
	_ nodes.Machines  = (*Machines)(nil)
	_ nodes.Refresher = (*Machines)(nil)
)

// List implements nodes.Machines.
func (m *Machines) List(context.Context) ([]nodes.Machine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blind {
		return nil, errors.New("listing machines: they cannot be seen")
	}
	var all []nodes.Machine
	for _, one := range m.machines {
		all = append(all, one)
	}
	return all, nil
}

// Ensure implements nodes.Machines.
func (m *Machines) Ensure(ctx context.Context, want nodes.Machine, pool v1alpha1.NodePool) error {
	return m.write(func() error {
		one, ok := m.machines[want.Name]
		if !ok {
			one = nodes.Machine{Name: want.Name, Pool: pool.Name, KeyVersion: want.KeyVersion}
		}
		if !one.Running && m.Join != nil {
			if err := m.Join(ctx, want.Name); err != nil {
				return err
			}
		}
		one.Running = true
		m.put(one)
		return nil
	})
}

// Remove implements nodes.Machines.
func (m *Machines) Remove(_ context.Context, name string) (gone bool, err error) {
	err = m.write(func() error {
		delete(m.machines, name)
		return nil
	})
	return err == nil, err
}

// Remember implements nodes.Refresher.
func (m *Machines) Remember(_ context.Context, want nodes.Machine) error {
	return m.write(func() error {
		one, ok := m.machines[want.Name]
		if !ok || want.KeyVersion < one.KeyVersion || want.Refresh.KeyVersion < one.Refresh.KeyVersion {
			return fmt.Errorf("remembering %+v: there is %+v", want, one)
		}
		if one.Refresh.KeyVersion != want.Refresh.KeyVersion {
			one.Refresh = nodes.Refresh{KeyVersion: want.Refresh.KeyVersion, Since: want.Refresh.Since}
		}
		one.KeyVersion, one.Refresh.Proven = want.KeyVersion, want.Refresh.Proven
		m.put(one)
		return nil
	})
}

// RestartKubelet implements nodes.Refresher.
func (m *Machines) RestartKubelet(ctx context.Context, name string) error {
	return m.write(func() error {
		one := m.machines[name]
		if !one.Running || !one.Refreshing() || !one.Refresh.Kubelet.IsZero() {
			return nil
		}
		if m.restarts == nil {
			m.restarts = map[string]int{}
		}
		m.restarts[name]++
		one.Refresh.Kubelet = time.Now()
		m.put(one)
		if m.Report == nil {
			return nil
		}
		return m.Report(ctx, name)
	})
}

// Tokens implements nodes.Refresher.
func (m *Machines) Tokens(_ context.Context, name string, files []nodes.TokenFile) ([]nodes.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.machines[name].Running {
		return nil, fmt.Errorf("machine %s does not run", name)
	}
	out := make([]nodes.Token, len(files))
	for i, f := range files {
		t, ok := m.tokens[f]
		t.Missing = !ok
		out[i] = t
	}
	return out, nil
}

// write does a write, or fails it before or after it took effect.
func (m *Machines) write(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fault := faults.None
	if m.fault != nil {
		fault = m.fault()
	}
	if fault == faults.Failed {
		return errInjected
	}
	if err := do(); err != nil {
		return err
	}
	if fault == faults.FailedButPersisted {
		return errInjected
	}
	return nil
}

func (m *Machines) put(one nodes.Machine) {
	if m.machines == nil {
		m.machines = map[string]nodes.Machine{}
	}
	m.machines[one.Name] = one
	m.most = max(m.most, len(m.machines))
}

// Fail sets how writes fail from now on; nil: they do not.
func (m *Machines) Fail(fault func() faults.Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// Blind sets whether machines cannot be listed.
func (m *Machines) Blind(is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blind = is
}

// Stop stops a machine as a power cut does.
func (m *Machines) Stop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.machines[name]
	one.Running, one.Refresh.Kubelet = false, time.Time{}
	m.machines[name] = one
}

// Vanish removes a machine.
func (m *Machines) Vanish(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.machines, name)
}

// SetToken sets the content of a token file.
func (m *Machines) SetToken(file nodes.TokenFile, token nodes.Token) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[nodes.TokenFile]nodes.Token{}
	}
	m.tokens[file] = token
}

// Restarts returns how often the kubelet of a machine was restarted.
func (m *Machines) Restarts(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restarts[name]
}

// Most returns the largest number of machines that existed at once.
func (m *Machines) Most() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}
