package capi

import (
	"bytes"
	_ "embed"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Cluster is a cluster with a KubeadmControlPlane and a MachineDeployment, which have its name too.
type Cluster struct {
	Namespace, Name string
	// Version is that of the Kubernetes programs of the host, such as v1.36.4.
	Version                string
	ControlPlanes, Workers int
}

//go:embed cluster.yaml
var clusterYAML string

var clusterTemplate = template.Must(template.New("cluster.yaml").Parse(clusterYAML))

// Manifests returns the objects that make the cluster.
func (c Cluster) Manifests() ([]*unstructured.Unstructured, error) {
	var text bytes.Buffer
	if err := clusterTemplate.Execute(&text, c); err != nil {
		return nil, err
	}
	return ReadManifests(text.Bytes())
}
