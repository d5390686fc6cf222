package capi_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/capi/capitest"
)

// TestCluster has Cluster API make a cluster of two nodes, and delete it.
func TestCluster(t *testing.T) {
	skipUnlessLong(t)
	began := time.Now()
	note := func(what string) { t.Logf("%s after %.1f s", what, time.Since(began).Seconds()) }
	b := capitest.New(t)
	note("Cluster API ready")
	c := capi.Cluster{Namespace: "default", Name: "one", Version: kubetest.Version, ControlPlanes: 1, Workers: 1}
	b.Make(c)
	client := b.Workload(c)
	note("kubeconfig there")
	awaitNodes(b, client, 2)
	note("both nodes ready")
	b.Eventually("CoreDNS to be available", func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 2 {
			err = fmt.Errorf("%d replicas of CoreDNS are available", d.Status.AvailableReplicas)
		}
		return err
	})
	note("CoreDNS available")
	b.Delete(c)
	note("cluster deleted")
}

// awaitNodes waits until a cluster has exactly so many nodes, all ready.
func awaitNodes(b *capitest.Bed, client *kubernetes.Clientset, want int) {
	b.Eventually(fmt.Sprintf("%d nodes to be ready", want), func(ctx context.Context) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && (len(list.Items) != want || slices.ContainsFunc(list.Items, notReady)) {
			err = fmt.Errorf("there are %d nodes, perhaps not all ready", len(list.Items))
		}
		return err
	})
}

func notReady(n corev1.Node) bool {
	return n.Spec.ProviderID == "" || !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
