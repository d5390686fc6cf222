package main

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// TestPods fills an API server with pods, each of which holds three tokens, lists them as the benchmark does, and
// deletes them.
func TestPods(t *testing.T) {
	client, err := kubernetes.NewForConfig(kubetest.Start(t, kubetest.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	for n := range namespaces {
		name := fmt.Sprintf("bench-%d", n)
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: robot}}
		if _, err := client.CoreV1().ServiceAccounts(name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const count = podsOfNode + 1
	if err := (&secretsOf{client: client, count: 30}).fillPods(t.Context(), count); err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) != count {
		t.Fatalf("%d pods (%v), want %d", len(pods.Items), err, count)
	}
	if tokens := podtokens.Of(&pods.Items[0], podtokens.Cluster{}); len(tokens) != 3 {
		t.Errorf("a pod holds %+v, want three tokens", tokens)
	}
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 2 {
		t.Errorf("%d nodes (%v), want two", len(nodes.Items), err)
	}
	var times []float64
	if err := timeList(t.Context(), client, &times); err != nil || len(times) != 1 {
		t.Errorf("lists took %v (%v)", times, err)
	}
	if err := deletePods(t.Context(), client); err != nil {
		t.Error(err)
	}
	if pods, err = client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil || len(pods.Items) > 0 {
		t.Errorf("%d pods are left (%v)", len(pods.Items), err)
	}
}
