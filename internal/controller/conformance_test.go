package controller_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/controlplanetest"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/nodestest"
)

// TestControlPlaneOfTheTests holds the control planes that the controller's tests drive to the contract of real ones.
func TestControlPlaneOfTheTests(t *testing.T) {
	controlplanetest.Run(t, controlplanetest.Fixture{External: true, New: func(t *testing.T) controlplanetest.Cluster {
		s, key := newSite(t), client.ObjectKey{Namespace: "test", Name: "blue"}
		return s.conforming(plane{s, key, 3})
	}})
}

// conforming is what the suite may do to a control plane.
func (s *site) conforming(p plane) controlplanetest.Cluster {
	at := func(name string, do func(*userCluster, *server)) {
		s.with(p.ObjectKey, func(c *userCluster) {
			i := slices.IndexFunc(c.servers, func(x server) bool { return x.Name == name })
			do(c, &c.servers[i])
		})
	}
	return controlplanetest.Cluster{
		Open:  func(*testing.T) controlplane.Adapter { return p },
		Prove: s.prove,
		Process: func(_ *testing.T, name string) (process string) {
			at(name, func(_ *userCluster, x *server) {
				if !x.Running.IsZero() {
					process = strconv.Itoa(x.starts)
				}
			})
			return process
		},
		Kill: func(_ *testing.T, name string) { at(name, func(_ *userCluster, x *server) { x.stop() }) },
		Break: func(_ *testing.T, name string) func() {
			at(name, func(_ *userCluster, x *server) { x.broken = true; x.stop() })
			return func() { at(name, func(_ *userCluster, x *server) { x.broken = false }) }
		},
		Hide: func(*testing.T) func() {
			s.with(p.ObjectKey, func(c *userCluster) { c.hidden = true })
			return func() { s.with(p.ObjectKey, func(c *userCluster) { c.hidden = false }) }
		},
		Fail: func(_ *testing.T, fault faults.Fault) func() {
			s.fault = func() faults.Fault { return fault }
			return func() { s.fault = noFault }
		},
		Restore: func(t *testing.T, name string, keys controlplane.Keys, _ []keystore.KeyPair) {
			at(name, func(c *userCluster, x *server) {
				x.stop()
				x.Configured = keys
				if err := x.start(c.disk); err != nil {
					t.Error(err)
				}
			})
		},
		Remove: func(_ *testing.T, name string) {
			s.with(p.ObjectKey, func(c *userCluster) {
				c.servers = slices.DeleteFunc(c.servers, func(x server) bool { return x.Name == name })
			})
		},
		Join: func(t *testing.T, keys controlplane.Keys) (name string) {
			s.with(p.ObjectKey, func(c *userCluster) {
				name = fmt.Sprintf("cp-%d", len(c.servers))
				x := server{Server: controlplane.Server{Name: name, Endpoint: "https://" + name + ".test", Configured: keys}}
				if err := x.start(c.disk); err != nil {
					t.Error(err)
				}
				c.servers = append(c.servers, x)
			})
			return name
		},
	}
}

// TestPoolsOfTheTests holds the node pools that the controller's tests drive to the contract of real ones.
func TestPoolsOfTheTests(t *testing.T) {
	nodestest.RunAdapter(t, nodestest.AdapterFixture{New: func(t *testing.T) nodestest.Cluster {
		s, key := newSite(t), client.ObjectKey{Namespace: "test", Name: "blue"}
		return s.conformingPools(key)
	}})
}

// conformingPools is what the suite may do to node pools.
func (s *site) conformingPools(key client.ObjectKey) nodestest.Cluster {
	return nodestest.Cluster{
		Open: func(_ *testing.T, wanted ...v1alpha1.NodePool) nodes.Adapter {
			uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
			uc.Spec.Infrastructure.Local = &v1alpha1.LocalInfrastructure{NodePools: wanted}
			return pools{s, uc}
		},
		Fail: func(_ *testing.T, fault faults.Fault) {
			s.fault = func() faults.Fault {
				once := fault
				fault = faults.None
				return once
			}
		},
		Vanish: func(_ *testing.T, name string) {
			s.with(key, func(c *userCluster) {
				i := slices.IndexFunc(c.nodes, func(n nodes.Node) bool { return n.Name == name })
				c.nodes[i].Ready, c.nodes[i].Deleting = false, true // what is left is to be deleted
			})
		},
		Join: func(_ *testing.T, name string) {
			s.with(key, func(c *userCluster) { c.nodes = append(c.nodes, nodes.Node{Name: name, Ready: true}) })
		},
		Blind: func(*testing.T) func() {
			s.with(key, func(c *userCluster) { c.unseen = true })
			return func() { s.with(key, func(c *userCluster) { c.unseen = false }) }
		},
	}
}
