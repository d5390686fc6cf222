package v1alpha1

import corev1 "k8s.io/api/core/v1"

// Infrastructure is what runs a user cluster. Exactly one of its members must be set, and the choice cannot be changed.
//
// +union
// +kubebuilder:validation:ExactlyOneOf=local;kubeadm;clusterAPI
// +kubebuilder:validation:XValidation:rule="has(self.local) == has(oldSelf.local) && has(self.kubeadm) == has(oldSelf.kubeadm)",message="infrastructure cannot be changed to another one"
type Infrastructure struct {
	// Local runs the cluster on one host, from processes and sandboxes, for trying and testing.
	// +optional
	Local *LocalInfrastructure `json:"local,omitempty"`
	// Kubeadm is a cluster that kubeadm made, and that goes on when the UserCluster is deleted.
	// +optional
	Kubeadm *KubeadmInfrastructure `json:"kubeadm,omitempty"`
	// ClusterAPI is a cluster of Cluster API whose control plane is a KubeadmControlPlane. It goes on when the UserCluster
	// is deleted.
	// +optional
	ClusterAPI *ClusterAPIInfrastructure `json:"clusterAPI,omitempty"`
}

// Name returns the name of the member that is set; empty when it is one that this version does not know.
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

// Adopted reports whether somebody else made the cluster: Keyturn never makes it, takes the key that it signs with as
// version 1, and leaves it running when the UserCluster is deleted.
func (i Infrastructure) Adopted() bool { return i.Local == nil }

// NodePools returns the node pools that are wanted; none where Keyturn does not make the nodes.
func (i Infrastructure) NodePools() []NodePool {
	if i.Local != nil {
		return i.Local.NodePools
	}
	return nil
}

// SendsRetryAfter reports whether kube-apiserver is to run with --shutdown-send-retry-after while its keys change as
// files, where kubeadm made its manifest.
func (i Infrastructure) SendsRetryAfter() bool {
	return i.Kubeadm == nil || i.Kubeadm.ShutdownSendRetryAfter
}

// defaultNodeRefresh is NodeRefreshReplace where Keyturn can replace nodes.
func (i Infrastructure) defaultNodeRefresh() NodeRefresh {
	if i.Local != nil {
		return NodeRefreshReplace
	}
	return NodeRefreshEvict
}

// defaultSource is KeySourceFiles where somebody else made the cluster, since its API servers read files: they go on as
// they are until a spec says otherwise.
func (i Infrastructure) defaultSource() KeySource {
	if i.Adopted() {
		return KeySourceFiles
	}
	return KeySourceExternal
}

// KubeadmInfrastructure names a cluster that kubeadm made.
type KubeadmInfrastructure struct {
	// KubeconfigSecret names the Secret, in the namespace of the UserCluster, whose key "value" is a kubeconfig of an
	// administrator of the cluster. Its certificates and keys are in it; it names no file, program or token. Empty: the
	// cluster that the controller itself runs in, which it has to be allowed by its flag --own-cluster.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubeadm.kubeconfigSecret cannot be changed: give the Secret another content"
	// +kubebuilder:default=""
	KubeconfigSecret string `json:"kubeconfigSecret"`

	// ShutdownSendRetryAfter has kube-apiserver run with the flag of that name while its keys change as files. Then it
	// ends its watches when it stops, and is away for 15 seconds instead of 45.
	// +kubebuilder:default=true
	ShutdownSendRetryAfter bool `json:"shutdownSendRetryAfter"`
}

// ClusterAPIInfrastructure names a cluster of Cluster API. Its Cluster, contract v1beta2, is in the admin cluster, in
// the namespace of the UserCluster.
type ClusterAPIInfrastructure struct {
	// Cluster is the name of the Cluster. The controller reaches it by Secret NAME-kubeconfig, and keeps Secret NAME-sa,
	// with whose keys control-plane machines start, in step with the API servers.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9.]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="clusterAPI.cluster cannot be changed"
	Cluster string `json:"cluster"`
}

// LocalInfrastructure describes a cluster that Keyturn makes on one host.
//
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.network.podCIDR) || cidr(self.network.podCIDR).prefixLength() < 8 || cidr(self.network.podCIDR).prefixLength() > 24 || !has(self.nodePools) || self.nodePools.map(p, p.replicas > 0 ? p.replicas + p.maxSurge : 0).sum() <= [65536, 32768, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1][cidr(self.network.podCIDR).prefixLength() - 8]",message="network.podCIDR is too small: it has no /24 for each node that nodePools have while nodes are replaced"
type LocalInfrastructure struct {
	// KubernetesVersion is the version of every component, for example "v1.36.4". Its minor version is 1.35 or 1.36.
	// +kubebuilder:validation:Pattern=`^v1\.(35|36)\.(0|[1-9][0-9]*)$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubernetesVersion cannot be changed: upgrades are not supported"
	KubernetesVersion string `json:"kubernetesVersion"`

	// Network holds the address ranges of the cluster.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="network cannot be changed"
	Network Network `json:"network"`

	// ControlPlane describes the API servers.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="controlPlane cannot be changed"
	ControlPlane ControlPlane `json:"controlPlane"`

	// NodePools are the groups of worker nodes, by name.
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
	// ServiceCIDR is the range of Services, from a /12 to a /28.
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4",message="must be an IPv4 range like 10.96.0.0/20"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || string(cidr(self).masked()) == self",message="must begin at its first address"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= 12 && cidr(self).prefixLength() <= 28",message="must be between a /12 and a /28"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('127.0.0.0/8').containsIP(cidr(self).ip()) && !cidr('224.0.0.0/4').containsIP(cidr(self).ip()) && !cidr('169.254.0.0/16').containsIP(cidr(self).ip()) && !cidr('0.0.0.0/32').containsIP(cidr(self).ip())",message="is reserved and cannot be used by a cluster"
	ServiceCIDR string `json:"serviceCIDR"`
	// PodCIDR is the range of pods, from a /8 to a /24. Every node gets a /24 of it.
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

// NodePool is a group of like nodes.
type NodePool struct {
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`
	Name string `json:"name"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Replicas int32 `json:"replicas"`
	// Labels are put on every node of the pool. Policy keyturn-valid-specs checks them.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// Taints are put on every node of the pool. Policy keyturn-valid-specs checks them.
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Taints []corev1.Taint `json:"taints,omitempty"`
	// MaxSurge is how many nodes above Replicas a replacement may create; at least 1.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +kubebuilder:default=1
	MaxSurge int32 `json:"maxSurge"`
}

// InfrastructureStatus is what was observed of the infrastructure that runs a cluster. It has the member that the spec
// has.
//
// +union
type InfrastructureStatus struct {
	// Local is what was observed of a local cluster.
	// +optional
	Local *LocalInfrastructureStatus `json:"local,omitempty"`
	// Kubeadm is what was observed of a cluster that kubeadm made.
	// +optional
	Kubeadm *KubeadmInfrastructureStatus `json:"kubeadm,omitempty"`
	// ClusterAPI is what was observed of a cluster of Cluster API, whose nodes kubeadm made.
	// +optional
	ClusterAPI *KubeadmInfrastructureStatus `json:"clusterAPI,omitempty"`
}

// Adopted returns what was observed of a cluster that somebody else made; nil if nothing was.
func (s InfrastructureStatus) Adopted() *KubeadmInfrastructureStatus {
	if s.ClusterAPI != nil {
		return s.ClusterAPI
	}
	return s.Kubeadm
}

// KubeadmInfrastructureStatus is what was observed of a cluster that kubeadm made, or Cluster API by it.
type KubeadmInfrastructureStatus struct {
	// Retired are the key versions that rotations took away, the oldest first. A node that comes back with one of them, as
	// from a backup, is brought up.
	// +listType=map
	// +listMapKey=version
	// +kubebuilder:validation:MaxItems=20
	// +optional
	Retired []RetiredKey `json:"retired,omitempty"`
	// Leftovers are files of control-plane nodes with a private key of some key version that Keyturn does not delete,
	// because something else is in the file too, or because the key is in use.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +optional
	Leftovers []LeftoverKey `json:"leftovers,omitempty"`
}

// RetiredKey is a key version that was retired.
type RetiredKey struct {
	Version int32 `json:"version"`
	// KeyID is the kid of tokens that were signed with it.
	// +kubebuilder:validation:MaxLength=100
	KeyID string `json:"keyID"`
}

// LeftoverKey is a file with a private key.
type LeftoverKey struct {
	// Node is the node that has the file.
	Node string `json:"node"`
	Path string `json:"path"`
	// KeyID is the kid of tokens that are signed with the key.
	KeyID string `json:"keyID"`
}

// LocalInfrastructureStatus is what was observed of a local cluster.
type LocalInfrastructureStatus struct {
	// Home is the id of the data directory that the cluster lives in. A host with another data directory leaves the
	// cluster alone.
	// +optional
	Home string `json:"home,omitempty"`
}
