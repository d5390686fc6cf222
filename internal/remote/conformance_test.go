package remote_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/nodestest"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
)

// TestMachines runs the suite of the ports of machines on machines in memory that are reached over TLS. That of control
// planes runs in package controller, whose tests have some in memory, and both run in package local on real ones.
func TestMachines(t *testing.T) {
	m := &nodestest.Machines{}
	c := remotetest.Serve(t, &remote.Server{
		Machines: func(*v1alpha1.UserCluster) (remote.Machines, error) { return m, nil },
	})
	nodestest.RunMachines(t, nodestest.MachinesFixture{
		Open:      func(*testing.T) nodes.Machines { return c.Machines(cluster()) },
		Refresher: func(*testing.T) nodes.Refresher { return c.Machines(cluster()) },
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

func cluster() *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: "blue", UID: "uid"}}
}
