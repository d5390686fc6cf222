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
)

// UserCluster is a user cluster as its file describes it. The comments of the fields are their descriptions in
// docs/reference/config.md, and Rule has what they may hold. The tag `unused` of a blank field names documented fields
// that are accepted with any content and have no effect.
type UserCluster struct {
	// APIVersion is the version of this format.
	APIVersion string `yaml:"apiVersion"`
	// Kind is the kind of this file.
	Kind string `yaml:"kind"`
	// Name is the name of the cluster: 1 to 40 lower-case letters, digits and dashes. It begins with a letter and does not
	// end with a dash. It cannot be changed later.
	Name string `yaml:"name"`
	// Infrastructure names a cluster that somebody else made. A file without it describes a cluster that Keyturn makes on
	// one host. It is an addition to the documented product.
	Infrastructure *Infrastructure `yaml:"infrastructure"`
	// GKEOnPremVersion is like `1.36.4-gke.1`, where the part before the dash is the Kubernetes version, or a release of
	// Google's such as `1.36.200-gke.68`, which names the minor version of Kubernetes. It cannot be changed later.
	GKEOnPremVersion string `yaml:"gkeOnPremVersion"`
	// EnableControlplaneV2 gives the cluster a control plane of its own.
	EnableControlplaneV2 *bool `yaml:"enableControlplaneV2"`
	// EnableAdvancedCluster marks an advanced cluster, whose signing keys cannot be rotated. It cannot be changed later.
	EnableAdvancedCluster bool `yaml:"enableAdvancedCluster"`
	// Network holds the address ranges of the cluster. They must not overlap, and cannot be changed later.
	Network Network `yaml:"network"`
	// MasterNode describes the control plane.
	MasterNode MasterNode `yaml:"masterNode"`
	// NodePools are the groups of worker nodes, 32 at most. `gkectl update cluster` adds and removes pools, and changes
	// all of them but their names.
	NodePools []NodePool `yaml:"nodePools"`
	// KSASigningKey says how API servers get the keys that sign service account tokens, and where the public keys are
	// published. It is an addition to the documented product.
	KSASigningKey KSASigningKey `yaml:"ksaSigningKey"`
	// GKEConnect names the fleet with which the cluster is registered. Without it there is none. It can be added later; a
	// registered cluster leaves its fleet only when it is deleted.
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
	// Kubeadm is a cluster that kubeadm made. `kubeadm: {}` is the cluster in which the controller runs.
	Kubeadm *Kubeadm `yaml:"kubeadm"`
	// ClusterAPI is a cluster of Cluster API, whose objects are in the admin cluster.
	ClusterAPI *ClusterAPI `yaml:"clusterAPI"`
}

// ClusterAPI is a cluster of Cluster API, whose objects are in the admin cluster.
type ClusterAPI struct {
	// Namespace is the namespace of the Cluster. The UserCluster is in it too.
	Namespace string `yaml:"namespace"`
	// Cluster is the name of the Cluster.
	Cluster string `yaml:"cluster"`
	// Method is how API servers get their next keys. InPlace changes the keys on the control-plane machines, with an agent
	// that runs there meanwhile. Rollout makes Cluster API replace these machines, three times in a rotation, and requires
	// source files.
	Method string `yaml:"method"`
	// ShutdownSendRetryAfter has kube-apiserver run with the flag of that name while its keys change as files: its
	// restarts take 15 seconds instead of 45. It has no effect with method Rollout.
	ShutdownSendRetryAfter *bool `yaml:"shutdownSendRetryAfter"`
}

// Kubeadm is a cluster that kubeadm made. With neither a Secret nor a path, it is the admin cluster itself.
type Kubeadm struct {
	// KubeconfigSecret names a Secret of the admin cluster that holds a kubeconfig of an administrator of the cluster.
	KubeconfigSecret string `yaml:"kubeconfigSecret"`
	// KubeconfigPath is such a kubeconfig as a file, relative to the directory of the configuration file. gkectl keeps it
	// in a Secret. A file names one of the two at most.
	KubeconfigPath string `yaml:"kubeconfigPath"`
	// CertificatesDir is the certificatesDir of kubeadm's ClusterConfiguration: the directory of sa.pub and sa.key on the
	// control-plane nodes. kubespray has `/etc/kubernetes/ssl`. It cannot be changed later.
	CertificatesDir string `yaml:"certificatesDir"`
	// ShutdownSendRetryAfter has kube-apiserver run with the flag of that name while its keys change as files: its
	// restarts take 15 seconds instead of 45.
	ShutdownSendRetryAfter *bool `yaml:"shutdownSendRetryAfter"`
}

// Network holds the address ranges of the cluster, in CIDR notation.
type Network struct {
	// ServiceCIDR is the IPv4 range of Services, from a /12 to a /28, such as `10.96.0.0/20`.
	ServiceCIDR string `yaml:"serviceCIDR"`
	// PodCIDR is the IPv4 range of pods, from a /8 to a /24, such as `192.168.0.0/16`. Every node gets a /24 of it.
	PodCIDR string `yaml:"podCIDR"`

	_ struct{} `unused:"additionalInterfaces additionalNodeInterfaces controlPlaneIPBlock hostConfig ipMode vCenter"`
}

// MasterNode describes the control plane.
type MasterNode struct {
	// Replicas is the number of API servers. Three of them are available while one restarts. It cannot be changed later.
	Replicas *int32 `yaml:"replicas"`

	_ struct{} `unused:"autoResize cpus memoryMB topologyDomains vsphere"`
}

// NodePool is a group of nodes that are alike.
type NodePool struct {
	// Name is the name of the pool, by the rule for the name of a cluster.
	Name string `yaml:"name"`
	// Replicas is the number of nodes.
	Replicas *int32 `yaml:"replicas"`
	// Labels are put on every node of the pool, 64 at most.
	Labels map[string]string `yaml:"labels"`
	// Taints are put on every node of the pool, 32 at most.
	Taints []Taint `yaml:"taints"`
	// GKEOnPremVersion has no effect: every node has the version of the cluster.
	GKEOnPremVersion string `yaml:"gkeOnPremVersion"`
	// UpdateStrategy says how the nodes of the pool are replaced.
	UpdateStrategy UpdateStrategy `yaml:"updateStrategy"`

	_ struct{} `unused:"autoscaling bootDiskSizeGB cpus enableLoadBalancer gpu memoryMB osImage osImageType"`
	_ struct{} `unused:"topologyDomains vsphere"`
}

// Taint keeps pods without a toleration for it off the nodes of a pool.
type Taint struct {
	// Key is the key of the taint.
	Key string `yaml:"key"`
	// Value is the value of the taint.
	Value string `yaml:"value"`
	// Effect is what happens to pods that do not tolerate the taint.
	Effect string `yaml:"effect"`
}

// UpdateStrategy is how the nodes of a pool are replaced.
type UpdateStrategy struct {
	// RollingUpdate replaces nodes a few at a time.
	RollingUpdate RollingUpdate `yaml:"rollingUpdate"`
}

// RollingUpdate replaces nodes a few at a time.
type RollingUpdate struct {
	// MaxSurge is how many nodes more than its replicas the pool may have while nodes are replaced.
	MaxSurge *int32 `yaml:"maxSurge"`
}

// KSASigningKey is an extension: how API servers get their keys, the kind of keys, and where the public keys are
// published.
type KSASigningKey struct {
	// Source is how API servers get their keys. With external, each API server asks a signer beside it, which gets new
	// keys while both run. With files, an API server restarts for each change. A cluster that somebody else made keeps the
	// source that it has when the file does not name one.
	Source string `yaml:"source"`
	// Algorithm is the algorithm of the next key. RS256 (RSA, 2048 bits) is understood by every verifier; ES256 (ECDSA on
	// P-256) is much faster. A cluster that somebody else made keeps its algorithm when the file does not name one.
	Algorithm string `yaml:"algorithm"`
	// NodeRefresh is how a rotation replaces the tokens of running pods. Replace makes new nodes. Evict keeps the nodes
	// and evicts every pod that has a token. InPlace lets kubelets fetch new tokens for running pods. Wait leaves that to
	// the kubelets, which replace a token after four fifths of its life, or a day. Clusters that kubeadm made can have
	// Evict and Wait; those of Cluster API can have Replace, too. With infrastructure.clusterAPI.method Rollout, Replace
	// makes new workers and evicts pods on control-plane nodes.
	NodeRefresh string `yaml:"nodeRefresh"`
	// TokenReload is how long an application may use a token before it reads the file again. InPlace and Wait accept the
	// old key for that long.
	TokenReload *time.Duration `yaml:"tokenReload"`
	// Retire is when a rotation takes the old key away. AfterRefresh does so once it has replaced every token that it can.
	// WhenUnused also waits until the others have expired: third-party tokens and those of `kubectl create token`. It
	// needs source external.
	Retire string `yaml:"retire"`
	// RetireTimeout is how long WhenUnused waits at most.
	RetireTimeout *time.Duration `yaml:"retireTimeout"`
	// Issuer is the issuer of all tokens, an https URL by which verifiers know the cluster. It cannot be changed later. A
	// cluster that somebody else made keeps its issuer when the file does not name one.
	Issuer string `yaml:"issuer"`
	// Publish are the URLs of buckets (s3://, gs://, azblob://) or directories (file://), 8 at most, that get the
	// discovery document and the public keys of the issuer.
	Publish []string `yaml:"publish"`
	// PublishMaxAge is how long verifiers may keep these documents. A rotation waits that long after it has published a
	// key.
	PublishMaxAge *time.Duration `yaml:"publishMaxAge"`
}

// GKEConnect names the fleet of the cluster. The paths are relative to the directory of the configuration file.
type GKEConnect struct {
	// ProjectID is the ID of the fleet's project. It cannot be changed once the cluster is registered.
	ProjectID string `yaml:"projectID"`
	// Location is the location of the membership. It cannot be changed once the cluster is registered.
	Location string `yaml:"location"`
	// RegisterServiceAccountKeyPath is the JSON key of a service account that may register the cluster, relative to the
	// directory of this file. gkectl keeps it in a Secret. Without it, the controller uses its application default
	// credentials.
	RegisterServiceAccountKeyPath string `yaml:"registerServiceAccountKeyPath"`
	// Endpoint is the URL of the memberships API, if that is not Google Cloud's. It is an addition to the documented
	// product, as are the fields below.
	Endpoint string `yaml:"endpoint"`
	// STSEndpoint is the URL of the security token service, if that is not Google Cloud's.
	STSEndpoint string `yaml:"stsEndpoint"`
	// CertificateAuthorityPath holds the PEM certificates by which both endpoints are known, relative to the directory of
	// this file.
	CertificateAuthorityPath string `yaml:"certificateAuthorityPath"`
	// PropagationTime is how long a new key may be unknown to some verifier. A rotation waits that long after it has
	// published a key.
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

// ClusterNamespace returns the namespace of the Cluster of Cluster API that the file names, in which the UserCluster is
// too; empty if it names none.
func (c *UserCluster) ClusterNamespace() string {
	if c.Adopts() && c.Infrastructure.ClusterAPI != nil {
		return c.Infrastructure.ClusterAPI.Namespace
	}
	return ""
}

// Names reports whether the file sets a field of ksaSigningKey, such as "source". Fields that it does not set do not
// change in an existing cluster.
func (c *UserCluster) Names(field string) bool { return !slices.Contains(c.defaulted, field) }

// KubernetesVersion returns the version of every component, such as "v1.36.4"; empty for an adopted cluster.
func (c *UserCluster) KubernetesVersion() string {
	version, _ := kubernetesVersion(c.GKEOnPremVersion)
	return version
}
