package v1alpha1

import corev1 "k8s.io/api/core/v1"

// Infrastructure is what runs a user cluster. Exactly one of its members must be set, and the choice cannot be changed.
//
// +union
// +kubebuilder:validation:ExactlyOneOf=local;kubeadm;clusterAPI
// +kubebuilder:validation:XValidation:rule="has(self.local) == has(oldSelf.local) && has(self.kubeadm) == has(oldSelf.kubeadm)",message="infrastructure cannot be changed to another one"
type Infrastructure struct {
	// Local runs the cluster on one host, from processes and sandboxes, for trials and tests.
	// +optional
	Local *LocalInfrastructure `json:"local,omitempty"`
	// Kubeadm is a cluster that kubeadm made. It keeps running when the UserCluster is deleted.
	// +optional
	Kubeadm *KubeadmInfrastructure `json:"kubeadm,omitempty"`
	// ClusterAPI is a cluster of Cluster API whose control plane is a KubeadmControlPlane. It keeps running when the
	// UserCluster is deleted.
	// +optional
	ClusterAPI *ClusterAPIInfrastructure `json:"clusterAPI,omitempty"`
}

// Name returns the name of the member that is set; empty if this version does not know it.
func (i Infrastructure) Name() string {
	switch {
	case i.Local != nil:
		return "local"
	case i.Kubeadm != nil:
		return "kubeadm"
	case i.ClusterAPI != nil:
		return "clusterAPI"
	}
	return ""
}

// Adopted reports whether Keyturn did not make the cluster. Keyturn then takes the key that the cluster signs with as
// version 1, and leaves the cluster running when the UserCluster is deleted.
func (i Infrastructure) Adopted() bool { return i.Local == nil }

// NodePools returns the desired node pools; none if Keyturn does not make the nodes.
func (i Infrastructure) NodePools() []NodePool {
	if i.Local != nil {
		return i.Local.NodePools
	}
	return nil
}

// SendsRetryAfter reports whether kube-apiserver should run with --shutdown-send-retry-after while its key files
// change. It concerns only API servers whose manifest kubeadm made.
func (i Infrastructure) SendsRetryAfter() bool {
	switch {
	case i.Kubeadm != nil:
		return i.Kubeadm.ShutdownSendRetryAfter
	case i.ClusterAPI != nil:
		return i.ClusterAPI.ShutdownSendRetryAfter
	}
	return false
}

// DefaultCertificatesDir is the certificatesDir of kubeadm unless its configuration names another one.
const DefaultCertificatesDir = "/etc/kubernetes/pki"

// CertificatesDir returns the directory of sa.pub and sa.key on control-plane nodes that kubeadm made.
func (i Infrastructure) CertificatesDir() string {
	if i.Kubeadm != nil && i.Kubeadm.CertificatesDir != "" {
		return i.Kubeadm.CertificatesDir
	}
	return DefaultCertificatesDir
}

// RollsOut reports whether API servers get their next keys with new machines. Keyturn then runs nothing on a machine.
func (i Infrastructure) RollsOut() bool {
	return i.ClusterAPI != nil && i.ClusterAPI.Method == MethodRollout
}

// defaultNodeRefresh returns NodeRefreshReplace if Keyturn makes the nodes or changes keys only with new machines, and
// NodeRefreshEvict otherwise.
func (i Infrastructure) defaultNodeRefresh() NodeRefresh {
	if i.Local != nil || i.RollsOut() {
		return NodeRefreshReplace
	}
	return NodeRefreshEvict
}

// defaultSource returns KeySourceFiles for adopted clusters: their API servers read files already, and keep doing so
// until the spec names another source.
func (i Infrastructure) defaultSource() KeySource {
	if i.Adopted() {
		return KeySourceFiles
	}
	return KeySourceExternal
}

// KubeadmInfrastructure names a cluster that kubeadm made.
type KubeadmInfrastructure struct {
	// KubeconfigSecret names a Secret in the namespace of the UserCluster. Its key "value" is a kubeconfig of an
	// administrator of the cluster. The kubeconfig must contain its certificates and keys, and must not name a file,
	// program or token. If empty, the cluster is the one that the controller runs in, which the controller's flag
	// --own-cluster must allow.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubeadm.kubeconfigSecret cannot be changed: give the Secret another content"
	// +kubebuilder:default=""
	KubeconfigSecret string `json:"kubeconfigSecret"`

	// CertificatesDir is the certificatesDir of kubeadm's ClusterConfiguration: the directory of sa.pub and
	// sa.key on the control-plane nodes. kubespray has /etc/kubernetes/ssl.
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubeadm.certificatesDir cannot be changed: delete the UserCluster, which leaves the cluster running, and adopt it again"
	// +kubebuilder:validation:XValidation:rule="self != '/etc/kubernetes/manifests' && !(self + '/').startsWith('/var/lib/keyturn/') && !(self + '/').startsWith('/run/keyturn/')",message="kubeadm.certificatesDir is a directory of other files"
	// +kubebuilder:default="/etc/kubernetes/pki"
	// +optional
	CertificatesDir string `json:"certificatesDir,omitempty"`

	// ShutdownSendRetryAfter makes kube-apiserver run with the flag of that name while its key files change. It then
	// ends its watches when it stops, and is down for 15 seconds instead of 45.
	// +kubebuilder:default=true
	ShutdownSendRetryAfter bool `json:"shutdownSendRetryAfter"`
}

// ClusterAPIInfrastructure names a cluster of Cluster API. Its Cluster object, contract v1beta2, is in the admin
// cluster, in the namespace of the UserCluster.
type ClusterAPIInfrastructure struct {
	// Cluster is the name of the Cluster. The controller reaches it with Secret NAME-kubeconfig. It keeps Secret
	// NAME-sa, whose keys new control-plane machines start with, in step with the API servers.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9.]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="clusterAPI.cluster cannot be changed"
	Cluster string `json:"cluster"`

	// Method is how API servers get their next keys. Rollout requires source files.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="clusterAPI.method cannot be changed: delete the UserCluster, which leaves the cluster running, and adopt it again"
	// +kubebuilder:default=InPlace
	// +optional
	Method ClusterAPIMethod `json:"method,omitempty"`

	// ShutdownSendRetryAfter makes kube-apiserver run with the flag of that name while its key files change. It then
	// ends its watches when it stops, and is down for 15 seconds instead of 45. It has no effect with method Rollout.
	// +kubebuilder:default=true
	ShutdownSendRetryAfter bool `json:"shutdownSendRetryAfter"`
}

// ClusterAPIMethod names how the API servers of a cluster of Cluster API get their next keys.
// +kubebuilder:validation:Enum=InPlace;Rollout
type ClusterAPIMethod string

const (
	// MethodInPlace changes the keys on the control-plane machines, with an agent that runs there meanwhile.
	MethodInPlace ClusterAPIMethod = "InPlace"
	// MethodRollout makes Cluster API replace the control-plane machines, three times in a rotation. Keyturn runs nothing
	// on a machine.
	MethodRollout ClusterAPIMethod = "Rollout"
)

// LocalInfrastructure describes a cluster that Keyturn makes on one host.
//
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.network.podCIDR) || cidr(self.network.podCIDR).prefixLength() < 8 || cidr(self.network.podCIDR).prefixLength() > 24 || !has(self.nodePools) || self.nodePools.map(p, p.replicas > 0 ? p.replicas + p.maxSurge : 0).sum() <= [65536, 32768, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1][cidr(self.network.podCIDR).prefixLength() - 8]",message="network.podCIDR is too small: it has no /24 for each node that nodePools have while nodes are replaced"
type LocalInfrastructure struct {
	// KubernetesVersion is the version of every component, for example "v1.36.4". The minor version must be 1.35 or
	// 1.36.
	// +kubebuilder:validation:Pattern=`^v1\.(35|36)\.(0|[1-9][0-9]*)$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubernetesVersion cannot be changed: upgrades are not supported"
	KubernetesVersion string `json:"kubernetesVersion"`

	// Network holds the address ranges of the cluster.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="network cannot be changed"
	Network Network `json:"network"`

	// ControlPlane describes the API servers.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="controlPlane cannot be changed"
	ControlPlane ControlPlane `json:"controlPlane"`

	// NodePools are the groups of worker nodes, identified by name.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	// +optional
	NodePools []NodePool `json:"nodePools,omitempty"`
}

// Network holds the address ranges of a user cluster, in CIDR notation.
//
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.serviceCIDR) || !isCIDR(self.podCIDR) || !cidr(self.serviceCIDR).containsCIDR(cidr(self.podCIDR)) && !cidr(self.podCIDR).containsCIDR(cidr(self.serviceCIDR))",message="serviceCIDR and podCIDR overlap"
type Network struct {
	// ServiceCIDR is the range of Services, between a /12 and a /28.
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4",message="must be an IPv4 range like 10.96.0.0/20"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || string(cidr(self).masked()) == self",message="must begin at its first address"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= 12 && cidr(self).prefixLength() <= 28",message="must be between a /12 and a /28"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('127.0.0.0/8').containsIP(cidr(self).ip()) && !cidr('224.0.0.0/4').containsIP(cidr(self).ip()) && !cidr('169.254.0.0/16').containsIP(cidr(self).ip()) && !cidr('0.0.0.0/32').containsIP(cidr(self).ip())",message="is reserved and cannot be used by a cluster"
	ServiceCIDR string `json:"serviceCIDR"`
	// PodCIDR is the range of pods, between a /8 and a /24. Every node gets a /24 of it.
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4",message="must be an IPv4 range like 192.168.0.0/16"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || string(cidr(self).masked()) == self",message="must begin at its first address"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 24",message="must be between a /8 and a /24"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('127.0.0.0/8').containsIP(cidr(self).ip()) && !cidr('224.0.0.0/4').containsIP(cidr(self).ip()) && !cidr('169.254.0.0/16').containsIP(cidr(self).ip()) && !cidr('0.0.0.0/32').containsIP(cidr(self).ip())",message="is reserved and cannot be used by a cluster"
	PodCIDR string `json:"podCIDR"`
}

// ControlPlane describes the API servers of a user cluster.
type ControlPlane struct {
	// Replicas is the number of API servers: 1, or 3 for high availability.
	// +kubebuilder:validation:Enum=1;3
	Replicas int32 `json:"replicas"`
}

// NodePool is a group of nodes that are alike.
type NodePool struct {
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`
	Name string `json:"name"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Replicas int32 `json:"replicas"`
	// Labels are set on every node of the pool. Policy keyturn-valid-specs validates them.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// Taints are set on every node of the pool. Policy keyturn-valid-specs validates them.
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Taints []corev1.Taint `json:"taints,omitempty"`
	// MaxSurge is how many nodes more than Replicas may exist during a replacement; at least 1.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +kubebuilder:default=1
	MaxSurge int32 `json:"maxSurge"`
}

// InfrastructureStatus is the observed state of the infrastructure that runs a cluster. It has the same member as the
// spec.
//
// +union
type InfrastructureStatus struct {
	// Type is the member of spec.infrastructure that is set: local, kubeadm or clusterAPI.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	Type string `json:"type,omitempty"`
	// Local is the observed state of a local cluster.
	// +optional
	Local *LocalInfrastructureStatus `json:"local,omitempty"`
	// Kubeadm is the observed state of a cluster that kubeadm made.
	// +optional
	Kubeadm *KubeadmInfrastructureStatus `json:"kubeadm,omitempty"`
	// ClusterAPI is the observed state of a cluster of Cluster API, whose nodes kubeadm made.
	// +optional
	ClusterAPI *KubeadmInfrastructureStatus `json:"clusterAPI,omitempty"`
}

// Adopted returns the observed state of an adopted cluster; nil if there is none.
func (s InfrastructureStatus) Adopted() *KubeadmInfrastructureStatus {
	if s.ClusterAPI != nil {
		return s.ClusterAPI
	}
	return s.Kubeadm
}

// KubeadmInfrastructureStatus is the observed state of a cluster whose nodes kubeadm made.
type KubeadmInfrastructureStatus struct {
	// Retired are the key versions that rotations retired, the oldest first. A node that comes back with one of them,
	// for example from a backup, gets the current keys.
	// +listType=map
	// +listMapKey=version
	// +kubebuilder:validation:MaxItems=20
	// +optional
	Retired []RetiredKey `json:"retired,omitempty"`
	// Leftovers are files on control-plane nodes that hold a private key of some key version and that Keyturn does not
	// delete, because the file holds something else too, or because the key is in use.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +optional
	Leftovers []LeftoverKey `json:"leftovers,omitempty"`
	// LeftoverSecrets are Secrets of the admin cluster, as NAMESPACE/NAME, that may hold the private key that was retired
	// last: the bootstrap data of control-plane machines that are older than the key after it. They go with their
	// machines.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +optional
	LeftoverSecrets []string `json:"leftoverSecrets,omitempty"`
	// ControlPlane is the name of the KubeadmControlPlane of a cluster of Cluster API. Policy keyturn-cluster-api knows it
	// by that. It is empty for other clusters.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ControlPlane string `json:"controlPlane,omitempty"`
}

// RetiredKey is a key version that was retired.
type RetiredKey struct {
	Version int32 `json:"version"`
	// KeyID is the kid of tokens signed with it.
	// +kubebuilder:validation:MaxLength=100
	KeyID string `json:"keyID"`
}

// LeftoverKey is a file that holds a private key.
type LeftoverKey struct {
	// Node is the node that has the file.
	Node string `json:"node"`
	Path string `json:"path"`
	// KeyID is the kid of tokens signed with the key.
	KeyID string `json:"keyID"`
}

// LocalInfrastructureStatus is the observed state of a local cluster.
type LocalInfrastructureStatus struct {
	// Home is the ID of the data directory that the cluster lives in. A host with another data directory does not touch
	// the cluster.
	// +optional
	Home string `json:"home,omitempty"`
}
