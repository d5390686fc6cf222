package capi_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/capi/capitest"
)

const (
	controlPlaneVersion = "controlplane.cluster.x-k8s.io/v1beta2"
	coreVersion         = "cluster.x-k8s.io/v1beta2"
)

func skipUnlessLong(t *testing.T) {
	t.Helper()
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it takes minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
}

// TestScaleAndRollOut makes three control planes of one, replaces every machine by rollout.after, and goes back to one.
func TestScaleAndRollOut(t *testing.T) {
	skipUnlessLong(t)
	b := capitest.New(t)
	c := capi.Cluster{Namespace: "default", Name: "three", Version: kubetest.Version, ControlPlanes: 1, Workers: 1}
	b.Make(c)
	workload := b.Workload(c)
	awaitNodes(b, workload, 2)

	scale(b, c, 3)
	awaitNodes(b, workload, 4)
	awaitAPIServers(b, workload, 3)

	before := nodeNames(b, workload)
	after := time.Now().UTC().Format(time.RFC3339)
	for kind, version := range map[string]string{"KubeadmControlPlane": controlPlaneVersion, "MachineDeployment": coreVersion} {
		change(b, c, version, kind, `{"spec":{"rollout":{"after":"`+after+`"}}}`)
	}
	b.Eventually("every machine to be replaced", func(ctx context.Context) error {
		for name := range nodeNames(b, workload) {
			if before[name] {
				return fmt.Errorf("node %s is there", name)
			}
		}
		return nil
	})
	awaitNodes(b, workload, 4)
	awaitAPIServers(b, workload, 3)

	scale(b, c, 1)
	awaitNodes(b, workload, 2)
	b.Delete(c)
}

// TestClusterClass makes a cluster of a class, whose topology says how many machines it has.
func TestClusterClass(t *testing.T) {
	skipUnlessLong(t)
	b := capitest.New(t)
	c := capi.Cluster{
		Namespace: "default", Name: "classy", Version: kubetest.Version, ControlPlanes: 1, Workers: 1, Class: "local",
	}
	b.Make(c)
	workload := b.Workload(c)
	awaitNodes(b, workload, 2)
	change(b, c, coreVersion, "Cluster", `{"spec":{"topology":{"controlPlane":{"replicas":3}}}}`)
	awaitNodes(b, workload, 4)
	awaitAPIServers(b, workload, 3)
	b.Delete(c)
}

func scale(b *capitest.Bed, c capi.Cluster, replicas int) {
	change(b, c, controlPlaneVersion, "KubeadmControlPlane", fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
}

// change patches an object of a cluster that has its name.
func change(b *capitest.Bed, c capi.Cluster, apiVersion, kind, patch string) {
	b.Eventually("changing "+kind+" "+c.Name, func(ctx context.Context) error {
		return b.Client.Patch(ctx, b.Object(apiVersion, kind, c), client.RawPatch("application/merge-patch+json", []byte(patch)))
	})
}

func awaitAPIServers(b *capitest.Bed, workload *kubernetes.Clientset, want int) {
	b.Eventually(fmt.Sprintf("%d API servers", want), func(ctx context.Context) error {
		slices, err := workload.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err == nil && len(slices.Endpoints) != want {
			err = fmt.Errorf("there are %d", len(slices.Endpoints))
		}
		return err
	})
}

// nodeNames returns the names of a cluster's nodes. It waits while no API server answers.
func nodeNames(b *capitest.Bed, workload *kubernetes.Clientset) map[string]bool {
	names := map[string]bool{}
	b.Eventually("the nodes to be listed", func(ctx context.Context) error {
		list, err := workload.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			names[n.Name] = true
		}
		return nil
	})
	return names
}
