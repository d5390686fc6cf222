package nodestest

import (
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/nodes"
)

func TestMachines(t *testing.T) {
	m := &Machines{}
	RunMachines(t, MachinesFixture{
		Open:      func(*testing.T) nodes.Machines { return m },
		Refresher: func(*testing.T) nodes.Refresher { return m },
		Pool:      v1alpha1.NodePool{Name: "a"},
		Stop:      func(_ *testing.T, name string) { m.Stop(name) },
		Vanish:    func(_ *testing.T, name string) { m.Vanish(name) },
		Fail: func(_ *testing.T, fault faults.Fault) func() {
			m.Fail(func() faults.Fault { return fault })
			return func() { m.Fail(nil) }
		},
		Blind: func(*testing.T) func() {
			m.Blind(true)
			return func() { m.Blind(false) }
		},
	})
}
