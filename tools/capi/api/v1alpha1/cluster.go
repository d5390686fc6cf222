package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// LocalCluster is the network and the load balancer of a cluster on one host.
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=localclusters,scope=Namespaced,categories=cluster-api
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Endpoint",type=string,JSONPath=".spec.controlPlaneEndpoint.host"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=".status.conditions[?(@.type=='Ready')].status"
type LocalCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec LocalClusterSpec `json:"spec,omitempty"`
	// +optional
	Status LocalClusterStatus `json:"status,omitempty"`
}

// LocalClusterSpec is what a LocalCluster is to be.
type LocalClusterSpec struct {
	// network is the /24 of the cluster's bridge, such as 10.95.3.0/24. The controller chooses one that is free if it
	// is empty.
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4 && cidr(self).prefixLength() == 24 && cidr(self).masked() == cidr(self)",message="must be an IPv4 /24"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable"
	// +optional
	Network string `json:"network,omitempty"`

	// id names what the cluster has on the host, and nothing of another cluster ever had it. The controller sets it. It is
	// here, and not in the status, for clusterctl move.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable"
	// +optional
	ID string `json:"id,omitempty"`

	// failureDomains are names that machines are spread over. They are all this host.
	// +listType=set
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +optional
	FailureDomains []string `json:"failureDomains,omitempty"`

	// controlPlaneEndpoint is the load balancer. The controller sets it.
	// +optional
	ControlPlaneEndpoint clusterv1.APIEndpoint `json:"controlPlaneEndpoint,omitempty,omitzero"`
}

// LocalClusterStatus is what was observed of a LocalCluster.
type LocalClusterStatus struct {
	// conditions are Ready and Paused.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// initialization is part of the contract of Cluster API.
	// +optional
	Initialization Initialization `json:"initialization,omitempty,omitzero"`
	// failureDomains are the failure domains of the spec.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=10
	// +optional
	FailureDomains []clusterv1.FailureDomain `json:"failureDomains,omitempty"`
}

// GetConditions is for the helpers of Cluster API.
func (c *LocalCluster) GetConditions() []metav1.Condition { return c.Status.Conditions }

// SetConditions is for the helpers of Cluster API.
func (c *LocalCluster) SetConditions(conditions []metav1.Condition) { c.Status.Conditions = conditions }

// LocalClusterList is a list of LocalClusters.
// +kubebuilder:object:root=true
type LocalClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LocalCluster `json:"items"`
}

// LocalClusterTemplate is what a ClusterClass makes LocalClusters from.
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=localclustertemplates,scope=Namespaced,categories=cluster-api
// +kubebuilder:storageversion
type LocalClusterTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec LocalClusterTemplateSpec `json:"spec"`
}

// LocalClusterTemplateSpec is what is in a LocalClusterTemplate.
type LocalClusterTemplateSpec struct {
	// +required
	Template LocalClusterTemplateResource `json:"template"`
}

// LocalClusterTemplateResource is what a LocalCluster gets.
type LocalClusterTemplateResource struct {
	// +optional
	ObjectMeta clusterv1.ObjectMeta `json:"metadata,omitempty,omitzero"`
	// +optional
	Spec LocalClusterSpec `json:"spec,omitempty"`
}

// LocalClusterTemplateList is a list of LocalClusterTemplates.
// +kubebuilder:object:root=true
type LocalClusterTemplateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LocalClusterTemplate `json:"items"`
}
