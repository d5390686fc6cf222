package controller_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/controlplanetest"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
)

// TestControlPlaneOverTLS runs the suite on the control planes of these tests as a client of package remote reaches
// them.
func TestControlPlaneOverTLS(t *testing.T) {
	controlplanetest.Run(t, controlplanetest.Fixture{External: true, New: func(t *testing.T) controlplanetest.Cluster {
		s, key := newSite(t), client.ObjectKey{Namespace: "test", Name: "blue"}
		p := plane{s, key, 3}
		c := remotetest.Serve(t, &remote.Server{
			ControlPlane: func(*v1alpha1.UserCluster) (controlplane.Adapter, error) { return p, nil },
		})
		uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: "uid"}}
		cluster := s.conforming(p)
		cluster.Open = func(*testing.T) controlplane.Adapter { return c.ControlPlane(uc) }
		return cluster
	}})
}
