package kubeadm_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
)

// TestCluster makes a cluster of two nodes and uses it as its owner would.
func TestCluster(t *testing.T) {
	c := kubeadmtest.New(t, kubeadm.Options{})
	began := time.Now()
	c.Must(c.Start(t.Context(), "cp-1", kubeadm.ControlPlane))
	c.Must(c.Start(t.Context(), "worker-1", kubeadm.Worker))
	c.Must(c.Init(t.Context(), "cp-1"))
	t.Logf("kubeadm init after %.1f s", time.Since(began).Seconds())
	c.Must(c.Join(t.Context(), "worker-1", kubeadm.Worker))
	t.Logf("kubeadm join after %.1f s", time.Since(began).Seconds())
	client := c.Client()
	c.Eventually("both nodes to be ready", func(ctx context.Context) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && (len(list.Items) != 2 || slices.ContainsFunc(list.Items, notReady)) {
			err = fmt.Errorf("nodes are %v", list.Items)
		}
		return err
	})
	t.Logf("nodes ready after %.1f s", time.Since(began).Seconds())
	c.Eventually("CoreDNS to be available", func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 2 {
			err = fmt.Errorf("%d replicas of CoreDNS are available", d.Status.AvailableReplicas)
		}
		return err
	})
	t.Logf("CoreDNS available after %.1f s", time.Since(began).Seconds())
	for _, file := range []string{"sa.key", "sa.pub"} {
		if raw, err := c.ReadFile("cp-1", c.PKI(file)); err != nil || len(raw) == 0 {
			t.Errorf("%s is %d bytes, %v", file, len(raw), err)
		}
	}
}

// TestThreeControlPlanes makes a cluster whose API servers are behind the load balancer.
func TestThreeControlPlanes(t *testing.T) {
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it takes minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
	c := kubeadmtest.New(t, kubeadm.Options{})
	names := []string{"cp-1", "cp-2", "cp-3"}
	for _, name := range names {
		c.Must(c.Start(t.Context(), name, kubeadm.ControlPlane))
	}
	began := time.Now()
	c.Must(c.Init(t.Context(), "cp-1"))
	for _, name := range names[1:] {
		c.Must(c.Join(t.Context(), name, kubeadm.ControlPlane))
		t.Logf("%s joined after %.1f s", name, time.Since(began).Seconds())
	}
	client := c.Client()
	c.Eventually("three API servers", func(ctx context.Context) error {
		slices, err := client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err == nil && len(slices.Endpoints) != len(names) {
			err = fmt.Errorf("endpoints are %v", slices.Endpoints)
		}
		return err
	})
}

func notReady(n corev1.Node) bool {
	return !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
