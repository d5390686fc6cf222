package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// MachineFinalizer keeps a LocalMachine until nothing of its machine is left, and ClusterFinalizer a LocalCluster.
const (
	MachineFinalizer = "infrastructure.keyturn.dev/localmachine"
	ClusterFinalizer = "infrastructure.keyturn.dev/localcluster"
)

// LocalMachine is a machine of one host: a sandbox with containerd and a kubelet. Its name is the machine's.
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=localmachines,scope=Namespaced,categories=cluster-api
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Provider ID",type=string,JSONPath=".spec.providerID"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=".status.conditions[?(@.type=='Ready')].status"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=".status.conditions[?(@.type=='Ready')].reason"
type LocalMachine struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec LocalMachineSpec `json:"spec,omitempty"`
	// +optional
	Status LocalMachineStatus `json:"status,omitempty"`
}

// LocalMachineSpec is what a LocalMachine is to be. All machines of a host are alike.
type LocalMachineSpec struct {
	// providerID is the provider ID of the Node. The controller sets it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +optional
	ProviderID string `json:"providerID,omitempty"`
}

// LocalMachineStatus is what was observed of a LocalMachine.
type LocalMachineStatus struct {
	// conditions are Ready and Paused.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// initialization is part of the contract of Cluster API.
	// +optional
	Initialization Initialization `json:"initialization,omitempty,omitzero"`
	// addresses are the addresses of the machine.
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	Addresses []clusterv1.MachineAddress `json:"addresses,omitempty"`
	// failureDomain is the one that Cluster API chose.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +optional
	FailureDomain string `json:"failureDomain,omitempty"`
}

// GetConditions is for the helpers of Cluster API.
func (m *LocalMachine) GetConditions() []metav1.Condition { return m.Status.Conditions }

// SetConditions is for the helpers of Cluster API.
func (m *LocalMachine) SetConditions(conditions []metav1.Condition) { m.Status.Conditions = conditions }

// LocalMachineList is a list of LocalMachines.
// +kubebuilder:object:root=true
type LocalMachineList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LocalMachine `json:"items"`
}

// LocalMachineTemplate is what Cluster API makes LocalMachines from.
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=localmachinetemplates,scope=Namespaced,categories=cluster-api
// +kubebuilder:storageversion
// +kubebuilder:validation:XValidation:rule="self.spec.template.spec == oldSelf.spec.template.spec",message="spec.template.spec is immutable"
type LocalMachineTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec LocalMachineTemplateSpec `json:"spec"`
}

// LocalMachineTemplateSpec is what is in a LocalMachineTemplate.
type LocalMachineTemplateSpec struct {
	// +required
	Template LocalMachineTemplateResource `json:"template"`
}

// LocalMachineTemplateResource is what a LocalMachine gets.
type LocalMachineTemplateResource struct {
	// +optional
	ObjectMeta clusterv1.ObjectMeta `json:"metadata,omitempty,omitzero"`
	// +required
	Spec LocalMachineSpec `json:"spec"`
}

// LocalMachineTemplateList is a list of LocalMachineTemplates.
// +kubebuilder:object:root=true
type LocalMachineTemplateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LocalMachineTemplate `json:"items"`
}
