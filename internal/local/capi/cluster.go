package capi

import (
	"bytes"
	"embed"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Cluster is a cluster with a KubeadmControlPlane and a MachineDeployment. They have its name too, unless a class makes
// them.
type Cluster struct {
	Namespace, Name string
	// Class is the ClusterClass that the cluster is made of, and that is made for it; empty: none.
	Class string
	// Version is the version of the host's Kubernetes programs, such as v1.36.4.
	Version                string
	ControlPlanes, Workers int
}

//go:embed cluster.yaml class.yaml addons.yaml
var manifests embed.FS

var templates = template.Must(template.ParseFS(manifests, "*.yaml"))

// Manifests returns the objects that make the cluster.
func (c Cluster) Manifests() ([]*unstructured.Unstructured, error) {
	cluster := "cluster.yaml"
	if c.Class != "" {
		cluster = "class.yaml"
	}
	var objects []*unstructured.Unstructured
	for _, name := range []string{"addons.yaml", cluster} {
		var text bytes.Buffer
		if err := templates.ExecuteTemplate(&text, name, c); err != nil {
			return nil, err
		}
		list, err := ReadManifests(text.Bytes())
		if err != nil {
			return nil, err
		}
		objects = append(objects, list...)
	}
	return objects, nil
}
