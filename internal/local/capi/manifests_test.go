package capi

import (
	"encoding/base64"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const withWebhooks = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  conversion:
    strategy: Webhook
    webhook:
      clientConfig: {service: {name: a, namespace: b, path: /convert}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec: {group: without}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
webhooks:
- name: first
  clientConfig: {service: {name: a, namespace: b, path: /first}}
- name: second
  clientConfig: {service: {name: a, namespace: b, path: /second}}
`

// TestWebhooksAreReachedByURL leaves no Service, which the API server would ask for an address that does not exist.
func TestWebhooksAreReachedByURL(t *testing.T) {
	objects, err := ReadManifests([]byte(withWebhooks))
	if err != nil || len(objects) != 3 {
		t.Fatalf("ReadManifests = %d objects, %v", len(objects), err)
	}
	hooks := webhooks{url: "https://10.0.0.1:9443", ca: []byte("CA")}
	for _, o := range objects {
		if err := hooks.point(o); err != nil {
			t.Fatal(err)
		}
	}
	want(t, objects[0].Object["spec"].(map[string]any)["conversion"].(map[string]any)["webhook"], "https://10.0.0.1:9443/convert")
	if _, found, _ := unstructured.NestedMap(objects[1].Object, "spec", "conversion"); found {
		t.Error("a definition without conversion got one")
	}
	list := objects[2].Object["webhooks"].([]any)
	want(t, list[0], "https://10.0.0.1:9443/first")
	want(t, list[1], "https://10.0.0.1:9443/second")
}

func want(t *testing.T, webhook any, url string) {
	t.Helper()
	config, _, err := unstructured.NestedMap(webhook.(map[string]any), "clientConfig")
	if err != nil || len(config) != 2 || config["url"] != url || config["caBundle"] != base64.StdEncoding.EncodeToString([]byte("CA")) {
		t.Errorf("clientConfig is %v, %v, want %s", config, err, url)
	}
}

// TestManifests has one Cluster, with the replicas that were asked for, of either kind.
func TestManifests(t *testing.T) {
	for class, replicas := range map[string][]string{
		"": {"KubeadmControlPlane", "spec", "replicas"}, "local": {"Cluster", "spec", "topology", "controlPlane", "replicas"},
	} {
		c := Cluster{Namespace: "n", Name: "a", Class: class, Version: "v1.36.4", ControlPlanes: 3, Workers: 2}
		objects, err := c.Manifests()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, o := range objects {
			found[o.GetKind()] = true
			if o.GetKind() != replicas[0] {
				continue
			}
			if got, _, err := unstructured.NestedInt64(o.Object, replicas[1:]...); err != nil || got != 3 {
				t.Errorf("of class %q: %s has %d replicas, %v", class, o.GetKind(), got, err)
			}
		}
		for _, kind := range []string{"Cluster", "ClusterResourceSet", "ConfigMap", "LocalMachineTemplate", replicas[0]} {
			if !found[kind] {
				t.Errorf("of class %q: there is no %s", class, kind)
			}
		}
	}
}
