package kubeadm

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/rotation"
)

// counting counts how often the API servers are found.
type counting struct {
	*testCluster
	finds int
}

func (c *counting) find(ctx context.Context) (Found, error) {
	c.finds++
	return c.testCluster.find(ctx)
}

// observe observes the cluster in a round whose decision is not carried out yet.
func (c *counting) observe() (*Cluster, rotation.Decision) {
	c.t.Helper()
	a := c.adapter()
	a.open = func(context.Context) (plane, agents, error) { return c, c, nil }
	state := must(a.Observe(c.t.Context()))
	return a, rotation.Plan(c.observed(a, state, c.keys()), c.clock)
}

// TestAnotherLook has an API server go away between the look of a round and its change, which would restart another.
func TestAnotherLook(t *testing.T) {
	c := &counting{testCluster: newTestCluster(t, "a", "b")}
	c.settle()
	c.uc.Spec.KSASigningKey.Version = 2
	var a *Cluster
	var d rotation.Decision
	c.until("a change", func() bool {
		a, d = c.observe()
		return d.Action.Target.Next == "a" && c.asked
	})
	c.host("b").off = true
	if err := a.Converge(t.Context(), d.Action.Target, c.keys()); err != nil {
		t.Fatal(err)
	}
	if c.host("a").kubelet(); c.host("a").restarts > 0 {
		t.Error("an API server is restarted while the other one is away")
	}
}

// TestJoining finds an API server that serves before its mirror pod and the label of its node are there.
func TestJoining(t *testing.T) {
	r := newReach("uid", kubetest.Start(t, kubetest.Options{}), &controlplane.Prover{})
	defer r.close()
	client, err := r.client()
	if err != nil {
		t.Fatal(err)
	}
	node := must(client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "c"},
	}, metav1.CreateOptions{}))
	endpoints := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "more", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.3"}}},
	}
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	must(slices.Create(t.Context(), endpoints, metav1.CreateOptions{}))
	strays := func() (strays []string) {
		for _, p := range must(Find(t.Context(), client)).Problems {
			if strings.Contains(p, "10.0.0.3") {
				strays = append(strays, p)
			}
		}
		return strays
	}
	if len(strays()) != 1 {
		t.Error("an API server on no node is no problem")
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.3"}}
	must(client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}))
	found := must(Find(t.Context(), client))
	if s := found.Servers; len(strays()) != 0 || len(s) != 1 || s[0].Node != "c" || s[0].Waiting == "" || s[0].Leaving ||
		!s[0].Listed {
		t.Errorf("found %+v", found)
	}
}
