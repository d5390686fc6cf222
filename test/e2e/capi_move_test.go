package e2e

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/rotation"
)

// TestClusterAPIMove has clusterctl move a cluster to another management cluster, with its UserCluster and its keys: in
// Switch, while two key versions exist and the agent is on the nodes, and back while nothing is rotated. The controller
// of each side runs all along. The rotation ends on the other side, and the next one on the first.
func TestClusterAPIMove(t *testing.T) {
	skipUnlessLong(t)
	here := newCAPICluster(t, capiClusterOf(1))
	here.adopt()
	there := here.another()
	there.startController()

	version := here.version() + 1
	here.patch(fmt.Sprintf(`{"spec":{"ksaSigningKey":{"version":%d}}}`, version))
	t.Logf("moved in step %q", here.awaitStep(version, rotation.StepSwitch))
	done := here.stage("moving")
	here.Move(there.Bed)
	done()
	here.expectMoved()
	there.await(version)
	there.expectNoRefusals()

	there.Move(here.Bed)
	there.expectMoved()
	here.await(version)
	here.rotate(nothing)
	here.expectNoRefusals()
	here.release()
}

// another is the cluster as it will be in another management cluster.
func (k *capiCluster) another() *capiCluster {
	k.t.Helper()
	done := k.stage("another management cluster")
	defer done()
	to := *k
	to.Bed = k.Another()
	k.Must(install.Apply(k.t.Context(), to.Config))
	scheme, err := controller.NewScheme()
	k.Must(err)
	to.admin, err = client.New(to.Config, client.Options{Scheme: scheme})
	k.Must(err)
	return &to
}

// expectMoved expects that neither a UserCluster nor a key is left.
func (k *capiCluster) expectMoved() {
	k.t.Helper()
	k.Eventually("the UserCluster and its keys to be gone", func(ctx context.Context) error {
		clusters, secrets := &v1alpha1.UserClusterList{}, &corev1.SecretList{}
		if err := k.admin.List(ctx, clusters); err != nil {
			return err
		}
		err := k.admin.List(ctx, secrets, client.MatchingFields{"type": v1alpha1.SecretTypeSigningKey})
		if err == nil && len(clusters.Items)+len(secrets.Items) > 0 {
			err = fmt.Errorf("there are %d UserClusters and %d keys", len(clusters.Items), len(secrets.Items))
		}
		return err
	})
}
