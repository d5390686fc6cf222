// Package v1alpha1 has the kinds of Cluster API's infrastructure provider for one Linux host: LocalCluster,
// LocalMachine and their templates. They follow the contract v1beta2 of Cluster API.
//
// +kubebuilder:object:generate=true
// +groupName=infrastructure.keyturn.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the kinds in this package.
var GroupVersion = schema.GroupVersion{Group: "infrastructure.keyturn.dev", Version: "v1alpha1"}

// AddToScheme adds the kinds of this package to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&LocalCluster{}, &LocalClusterList{}, &LocalClusterTemplate{}, &LocalClusterTemplateList{},
		&LocalMachine{}, &LocalMachineList{}, &LocalMachineTemplate{}, &LocalMachineTemplateList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// Initialization is what the contract of Cluster API orchestrates the first provisioning by.
// +kubebuilder:validation:MinProperties=1
type Initialization struct {
	// provisioned reports whether the infrastructure has been there once.
	// +optional
	Provisioned *bool `json:"provisioned,omitempty"`
}

// Reasons of the condition Ready.
const (
	// ReasonWaiting means that something of Cluster API has to come first.
	ReasonWaiting = "Waiting"
	// ReasonFailed means that the last try failed; another follows.
	ReasonFailed = "Failed"
	// ReasonInvalidBootstrapData means that the machine is not made, since it cannot do what its bootstrap data asks for.
	ReasonInvalidBootstrapData = "InvalidBootstrapData"
	// ReasonUnsupportedVersion means that the machines of this host have another version of Kubernetes.
	ReasonUnsupportedVersion = "UnsupportedVersion"
	// ReasonBootstrapping means that the machine runs and carries out its bootstrap data.
	ReasonBootstrapping = "Bootstrapping"
	// ReasonBootstrapFailed means that the machine runs and its bootstrap data failed. It is not tried again.
	ReasonBootstrapFailed = "BootstrapFailed"
	// ReasonReady means that there is nothing left to do.
	ReasonReady = "Ready"
	// ReasonDeleting means that it is being removed from the host.
	ReasonDeleting = "Deleting"
)
