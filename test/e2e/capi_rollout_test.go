package e2e

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/local/capi"
)

// TestClusterAPIRollout rotates with new machines alone, in a cluster of a ClusterClass, whose topology names when they
// are replaced.
func TestClusterAPIRollout(t *testing.T) {
	skipUnlessLong(t)
	c := capiClusterOf(1)
	c.Class = "local"
	rollOut(t, c)
}

// TestClusterAPIRolloutOfThree does it with three control-plane machines and two workers.
func TestClusterAPIRolloutOfThree(t *testing.T) {
	skipUnlessLong(t)
	c := capiClusterOf(3)
	c.Workers = 2
	rollOut(t, c)
}

// rollOut rotates with new machines alone: three times those of the control plane, and once the workers. Nothing of
// Keyturn runs on a machine.
func rollOut(t *testing.T, c capi.Cluster) {
	t.Helper()
	k := newCAPICluster(t, c)
	k.method = v1alpha1.MethodRollout
	k.adopt()
	before := k.nodeNames()
	made := map[string]bool{}
	version := k.version() + 1
	k.rotate(func() {
		k.until("every machine that was made to be seen", func(ctx context.Context) error {
			for _, m := range k.controlPlaneMachines() {
				made[m.GetName()] = true
			}
			uc, err := k.userCluster(ctx)
			if err == nil && uc.Status.KSASigningKey.TokenVersion != version || uc.Status.KSASigningKey.Step != "" {
				err = errors.New("the rotation runs")
			}
			return err
		})
	})
	if want := c.ControlPlanes * (1 + 3); len(made) != want {
		t.Errorf("the control plane had %d machines, want the first %d and three for each: %v", len(made), c.ControlPlanes, made)
	}
	for name := range k.nodeNames() {
		if before[name] {
			t.Errorf("node %s was not replaced", name)
		}
	}
	_, err := k.workload.CoreV1().Namespaces().Get(t.Context(), kubeadm.DefaultAgentNamespace, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the namespace of agents: %v, want it not to exist", err)
	}
	k.expectNoRefusals()
	k.release()
}
