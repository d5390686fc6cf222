// Package v1alpha1 is Keyturn's API: the UserCluster object of an admin cluster, its conditions, reasons, labels and
// limits.
//
// The spec is the desired state and the status is the observed state. Raising the desired key version by one starts a
// rotation; the controller derives everything else from what it observes.
//
// +kubebuilder:object:generate=true
// +groupName=keyturn.dev
package v1alpha1
