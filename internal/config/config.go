// Package config reads the file that describes a user cluster: the documented `kind: UserCluster`.
//
// Parse is where to start. It is strict, and reports everything that is wrong with a file at once, each problem
// with its path and line. What it returns is valid and has its defaults; Object makes the API object of it.
// Template is the other direction: a commented file to begin with.
package config

import (
	"bytes"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// UserCluster is a user cluster as its file describes it. The tag `unused` of a blank field names documented
// fields that are accepted with any content and have no effect; `effect:"none"` marks one whose content is checked.
type UserCluster struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Name       string `yaml:"name"`
	// GKEOnPremVersion is like "1.36.4-gke.1"; the part before the dash is the Kubernetes version.
	GKEOnPremVersion      string        `yaml:"gkeOnPremVersion"`
	EnableControlplaneV2  *bool         `yaml:"enableControlplaneV2"`
	EnableAdvancedCluster bool          `yaml:"enableAdvancedCluster"`
	Network               Network       `yaml:"network"`
	MasterNode            MasterNode    `yaml:"masterNode"`
	NodePools             []NodePool    `yaml:"nodePools"`
	KSASigningKey         KSASigningKey `yaml:"ksaSigningKey"`
	GKEConnect            *GKEConnect   `yaml:"gkeConnect" effect:"none"`

	_ struct{} `unused:"advancedNetworking antiAffinityGroups authentication autoRepair cloudAuditLogging enableDataplaneV2 enableWindowsDataplaneV2 gkeOnPremAPI loadBalancer multipleNetworkInterfaces preparedSecrets schedulerConfiguration secretsEncryption stackdriver storage usageMetering vCenter"`

	withoutEffect []string
}

// Network holds the address ranges of the cluster, in CIDR notation.
type Network struct {
	ServiceCIDR string `yaml:"serviceCIDR"`
	PodCIDR     string `yaml:"podCIDR"`

	_ struct{} `unused:"additionalNodeInterfaces controlPlaneIPBlock hostConfig ipMode vCenter"`
}

// MasterNode describes the control plane.
type MasterNode struct {
	// Replicas is the number of API servers: 1 or 3.
	Replicas *int32 `yaml:"replicas"`

	_ struct{} `unused:"autoResize cpus memoryMB vsphere"`
}

// NodePool is a group of like nodes.
type NodePool struct {
	Name     string            `yaml:"name"`
	Replicas *int32            `yaml:"replicas"`
	Labels   map[string]string `yaml:"labels"`
	Taints   []Taint           `yaml:"taints"`
	// GKEOnPremVersion may only repeat that of the cluster.
	GKEOnPremVersion string         `yaml:"gkeOnPremVersion"`
	UpdateStrategy   UpdateStrategy `yaml:"updateStrategy"`

	_ struct{} `unused:"autoscaling bootDiskSizeGB cpus enableLoadBalancer gpu memoryMB osImage osImageType topologyDomains vsphere"`
}

// Taint keeps pods without a toleration for it off the nodes of a pool.
type Taint struct {
	Key    string `yaml:"key"`
	Value  string `yaml:"value"`
	Effect string `yaml:"effect"`
}

// UpdateStrategy says how the nodes of a pool are replaced.
type UpdateStrategy struct {
	RollingUpdate RollingUpdate `yaml:"rollingUpdate"`
}

// RollingUpdate replaces nodes a few at a time.
type RollingUpdate struct {
	// MaxSurge is how many nodes more than its replicas a pool may have meanwhile; at least 1.
	MaxSurge *int32 `yaml:"maxSurge"`
}

// KSASigningKey is our own addition: how API servers get their keys, and of which kind these are.
type KSASigningKey struct {
	Source    string `yaml:"source"`
	Algorithm string `yaml:"algorithm"`
}

// GKEConnect names the fleet of the cluster.
type GKEConnect struct {
	ProjectID                     string `yaml:"projectID"`
	Location                      string `yaml:"location"`
	RegisterServiceAccountKeyPath string `yaml:"registerServiceAccountKeyPath"`
}

// maxSize is that of a configuration file in bytes; real ones have a few thousand.
const maxSize = 1 << 20

// Load parses the file at path. What is wrong with its content is an *InvalidError.
func Load(path string) (*UserCluster, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's configuration: %w", err)
	}
	return Parse(data)
}

// Parse decodes, defaults and validates a file. Its error is an *InvalidError that holds every problem.
func Parse(data []byte) (*UserCluster, error) {
	d := &decoder{lines: map[string]int{}}
	c := &UserCluster{}
	if d.document(bytes.NewReader(data), len(data), c) {
		c.withoutEffect = d.withoutEffect
		c.setDefaults()
		validate(c, d)
	}
	if len(d.problems) > 0 {
		return nil, &InvalidError{Problems: d.sorted()}
	}
	return c, nil
}

// WithoutEffect returns the paths of the fields in the file that are accepted and do nothing, each once.
func (c *UserCluster) WithoutEffect() []string { return c.withoutEffect }

// KubernetesVersion is the version of every component, like "v1.36.4".
func (c *UserCluster) KubernetesVersion() string {
	version, _ := kubernetesVersion(c.GKEOnPremVersion)
	return version
}

// Object returns the API object that the file asks for, with key version 1.
func (c *UserCluster) Object() *v1alpha1.UserCluster {
	uc := &v1alpha1.UserCluster{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "UserCluster"},
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: c.Name},
		Spec: v1alpha1.UserClusterSpec{
			KubernetesVersion:     c.KubernetesVersion(),
			EnableAdvancedCluster: c.EnableAdvancedCluster,
			Network:               v1alpha1.Network{ServiceCIDR: c.Network.ServiceCIDR, PodCIDR: c.Network.PodCIDR},
			ControlPlane:          v1alpha1.ControlPlane{Replicas: *c.MasterNode.Replicas},
			KSASigningKey: v1alpha1.KSASigningKey{
				Version:   1,
				Source:    v1alpha1.KeySource(c.KSASigningKey.Source),
				Algorithm: v1alpha1.Algorithm(c.KSASigningKey.Algorithm),
			},
		},
	}
	for _, p := range c.NodePools {
		uc.Spec.NodePools = append(uc.Spec.NodePools, p.object())
	}
	return uc
}

func (p NodePool) object() v1alpha1.NodePool {
	pool := v1alpha1.NodePool{
		Name:     p.Name,
		Replicas: *p.Replicas,
		Labels:   p.Labels,
		MaxSurge: *p.UpdateStrategy.RollingUpdate.MaxSurge,
	}
	for _, t := range p.Taints {
		pool.Taints = append(pool.Taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	return pool
}
