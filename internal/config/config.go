// Package config reads the file that describes a user cluster: the documented `kind: UserCluster`.
//
// A file describes a local cluster, unless it has the field infrastructure, which names a cluster to adopt. Such a file
// has none of the fields that describe how to create a cluster.
//
// Start with Parse. It is strict, and reports everything that is wrong with a file at once, each problem with its path
// and line. Its result is valid and complete with defaults. Files reads and checks the files that it names in the same
// way, and Object makes the API object of both. Template does the reverse: it returns a commented file to start from.
//
// A service account key and a kubeconfig are only in Files: never in an object, and never in an error.
package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// UserCluster is a user cluster as described by its file. The tag `unused` of a blank field lists documented fields
// that are accepted with any content and have no effect.
type UserCluster struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Name       string `yaml:"name"`
	// Infrastructure is an extension. It is nil for a local cluster.
	Infrastructure *Infrastructure `yaml:"infrastructure"`
	// GKEOnPremVersion is, for example, "1.36.4-gke.1", where the part before the dash is the Kubernetes version, or a
	// release of Google's such as "1.36.200-gke.68", which has the minor version of Kubernetes and its own patch
	// number.
	GKEOnPremVersion      string        `yaml:"gkeOnPremVersion"`
	EnableControlplaneV2  *bool         `yaml:"enableControlplaneV2"`
	EnableAdvancedCluster bool          `yaml:"enableAdvancedCluster"`
	Network               Network       `yaml:"network"`
	MasterNode            MasterNode    `yaml:"masterNode"`
	NodePools             []NodePool    `yaml:"nodePools"`
	KSASigningKey         KSASigningKey `yaml:"ksaSigningKey"`
	// GKEConnect is nil for a cluster without a fleet.
	GKEConnect *GKEConnect `yaml:"gkeConnect"`

	_ struct{} `unused:"advancedNetworking antiAffinityGroups authentication autoRepair binaryAuthorization"`
	_ struct{} `unused:"cloudAuditLogging cloudRun componentAccessServiceAccountKeyPath dataplaneV2"`
	_ struct{} `unused:"disableBundledIngress enableDataplaneV2 enableVMTracking enableWindowsDataplaneV2"`
	_ struct{} `unused:"gkeOnPremAPI infraConfigFilePath loadBalancer multipleNetworkInterfaces"`
	_ struct{} `unused:"nodePoolUpdatePolicy preparedSecrets privateRegistry schedulerConfiguration"`
	_ struct{} `unused:"secretsEncryption stackdriver storage usageMetering vCenter"`

	withoutEffect, notes []string
	// defaulted are the fields of ksaSigningKey that the file does not set.
	defaulted []string
	// dir is the base of relative paths, and lines maps the path of each existing field to its line.
	dir   string
	lines map[string]int
}

// Infrastructure names a cluster to adopt. It has one member.
type Infrastructure struct {
	Kubeadm    *Kubeadm    `yaml:"kubeadm"`
	ClusterAPI *ClusterAPI `yaml:"clusterAPI"`
}

// ClusterAPI is a cluster of Cluster API, whose objects are in the admin cluster.
type ClusterAPI struct {
	// Namespace is the namespace of the Cluster and of the UserCluster.
	Namespace string `yaml:"namespace"`
	// Cluster is the name of the Cluster.
	Cluster string `yaml:"cluster"`
}

// Kubeadm is a cluster that kubeadm made. With neither a Secret nor a path, it is the admin cluster itself.
type Kubeadm struct {
	// KubeconfigSecret names a Secret of the admin cluster that holds a kubeconfig.
	KubeconfigSecret string `yaml:"kubeconfigSecret"`
	// KubeconfigPath is a kubeconfig file, relative to the directory of the configuration file. It is stored in a
	// Secret.
	KubeconfigPath         string `yaml:"kubeconfigPath"`
	ShutdownSendRetryAfter *bool  `yaml:"shutdownSendRetryAfter"`
}

// Network holds the address ranges of the cluster, in CIDR notation.
type Network struct {
	ServiceCIDR string `yaml:"serviceCIDR"`
	PodCIDR     string `yaml:"podCIDR"`

	_ struct{} `unused:"additionalInterfaces additionalNodeInterfaces controlPlaneIPBlock hostConfig ipMode vCenter"`
}

// MasterNode describes the control plane.
type MasterNode struct {
	// Replicas is the number of API servers: 1 or 3.
	Replicas *int32 `yaml:"replicas"`

	_ struct{} `unused:"autoResize cpus memoryMB topologyDomains vsphere"`
}

// NodePool is a group of nodes that are alike.
type NodePool struct {
	Name     string            `yaml:"name"`
	Replicas *int32            `yaml:"replicas"`
	Labels   map[string]string `yaml:"labels"`
	Taints   []Taint           `yaml:"taints"`
	// GKEOnPremVersion has no effect: every node has the version of the cluster.
	GKEOnPremVersion string         `yaml:"gkeOnPremVersion"`
	UpdateStrategy   UpdateStrategy `yaml:"updateStrategy"`

	_ struct{} `unused:"autoscaling bootDiskSizeGB cpus enableLoadBalancer gpu memoryMB osImage osImageType"`
	_ struct{} `unused:"topologyDomains vsphere"`
}

// Taint keeps pods without a toleration for it off the nodes of a pool.
type Taint struct {
	Key    string `yaml:"key"`
	Value  string `yaml:"value"`
	Effect string `yaml:"effect"`
}

// UpdateStrategy is how the nodes of a pool are replaced.
type UpdateStrategy struct {
	RollingUpdate RollingUpdate `yaml:"rollingUpdate"`
}

// RollingUpdate replaces nodes a few at a time.
type RollingUpdate struct {
	// MaxSurge is how many nodes more than its replicas a pool may have during a replacement; at least 1.
	MaxSurge *int32 `yaml:"maxSurge"`
}

// KSASigningKey is an extension: how API servers get their keys, the kind of keys, and where the public keys are
// published.
type KSASigningKey struct {
	Source    string `yaml:"source"`
	Algorithm string `yaml:"algorithm"`
	// NodeRefresh is how a rotation replaces the tokens of running pods.
	NodeRefresh string `yaml:"nodeRefresh"`
	// TokenReload is how long applications may keep using a token that they have read; in whole seconds.
	TokenReload *time.Duration `yaml:"tokenReload"`
	// Retire is when a rotation retires the old key, and RetireTimeout the longest wait for tokens to expire; in whole
	// seconds.
	Retire        string         `yaml:"retire"`
	RetireTimeout *time.Duration `yaml:"retireTimeout"`
	// Issuer is the issuer of all tokens, an https URL.
	Issuer string `yaml:"issuer"`
	// Publish are the URLs of buckets in which the discovery document and the JWKS of Issuer are published.
	Publish []string `yaml:"publish"`
	// PublishMaxAge is how long verifiers may cache these documents; in whole seconds.
	PublishMaxAge *time.Duration `yaml:"publishMaxAge"`
}

// GKEConnect names the fleet of the cluster. The paths are relative to the directory of the configuration file.
type GKEConnect struct {
	ProjectID string `yaml:"projectID"`
	// Location defaults to "global", as in Google's product.
	Location string `yaml:"location"`
	// RegisterServiceAccountKeyPath is the JSON key of a service account; if empty, the application default credentials
	// of the controller are used.
	RegisterServiceAccountKeyPath string `yaml:"registerServiceAccountKeyPath"`

	// The rest is an extension. Empty endpoints are those of Google Cloud.
	Endpoint    string `yaml:"endpoint"`
	STSEndpoint string `yaml:"stsEndpoint"`
	// CertificateAuthorityPath holds the PEM certificates that verify both endpoints.
	CertificateAuthorityPath string `yaml:"certificateAuthorityPath"`
	// PropagationTime is how long some verifier may not know a new key; in whole seconds.
	PropagationTime time.Duration `yaml:"propagationTime"`

	_ struct{} `unused:"agentServiceAccountKeyPath registerServiceAccountKey"`
}

// maxSize is the largest configuration file in bytes; real ones have a few thousand.
const maxSize = 1 << 20

// Load parses the file at path. If its content is invalid, the error is an *InvalidError.
func Load(path string) (*UserCluster, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, err
	}
	c.dir = filepath.Dir(path)
	return c, nil
}

// Parse decodes a file, sets defaults and validates it. Its error is an *InvalidError with every problem.
func Parse(data []byte) (*UserCluster, error) {
	d := &decoder{lines: map[string]int{}}
	c := &UserCluster{}
	if d.document(bytes.NewReader(data), len(data), c) {
		c.lines = d.lines
		c.setDefaults()
		validate(c, d)
		c.withoutEffect, c.notes = d.withoutEffect, append(c.notes, d.notes...)
	}
	if len(d.problems) > 0 {
		return nil, &InvalidError{Problems: d.sorted()}
	}
	return c, nil
}

// WithoutEffect returns the paths of the fields in the file that are accepted without effect, without duplicates.
func (c *UserCluster) WithoutEffect() []string { return c.withoutEffect }

// Notes returns what a person should know about a valid file, one sentence each: where Keyturn uses another value than
// the one in the file.
func (c *UserCluster) Notes() []string { return c.notes }

// Adopts reports whether the file names a cluster to adopt.
func (c *UserCluster) Adopts() bool { return c.Infrastructure != nil }

// Namespace returns the namespace of the UserCluster.
func (c *UserCluster) Namespace() string {
	if c.Adopts() && c.Infrastructure.ClusterAPI != nil {
		return c.Infrastructure.ClusterAPI.Namespace
	}
	return v1alpha1.SystemNamespace
}

// Names reports whether the file sets a field of ksaSigningKey, such as "source". Fields that it does not set do not
// change in an existing cluster.
func (c *UserCluster) Names(field string) bool { return !slices.Contains(c.defaulted, field) }

// KubernetesVersion returns the version of every component, such as "v1.36.4"; empty for an adopted cluster.
func (c *UserCluster) KubernetesVersion() string {
	version, _ := kubernetesVersion(c.GKEOnPremVersion)
	return version
}
