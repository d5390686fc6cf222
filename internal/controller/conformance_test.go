package controller_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/controlplanetest"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
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
		Fail: func(_ *testing.T, fault controlplanetest.Fault) func() {
			s.fault = func() keystoretest.Fault {
				return map[controlplanetest.Fault]keystoretest.Fault{
					controlplanetest.Failed: keystoretest.Failed, controlplanetest.FailedButPersisted: keystoretest.FailedButPersisted,
				}[fault]
			}
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
