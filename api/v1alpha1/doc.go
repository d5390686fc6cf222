// Package v1alpha1 is Keyturn's API: the UserCluster object of an admin cluster, its conditions,
// reasons, labels and limits.
//
// Spec is what is wanted and status is what was observed. A rotation is the wanted key version raised
// by one; everything else follows from what the controller observes.
//
// +kubebuilder:object:generate=true
// +groupName=keyturn.dev
package v1alpha1
