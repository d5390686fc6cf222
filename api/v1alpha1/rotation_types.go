package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// RotationStatus is the timeline of one rotation.
type RotationStatus struct {
	// Version is the key version that it rotates to.
	Version int32 `json:"version"`
	// StartedAt is when the controller first saw it running.
	StartedAt metav1.Time `json:"startedAt"`
	// CompletedAt is when the controller first saw it complete; unset while it runs.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Steps are its steps, in the order in which they first began.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=5
	// +optional
	Steps []RotationStep `json:"steps,omitempty"`
}

// RotationStep is the timeline of one step of a rotation.
type RotationStep struct {
	// Name is Generate, Publish, Switch, Refresh or Retire.
	Name string `json:"name"`
	// StartedAt is when the step first began. A step may begin again, for example when an API server joins.
	StartedAt metav1.Time `json:"startedAt"`
	// CompletedAt is when the step last ended; unset while it runs.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Waits are the longest waits of the step, in order of time, and the current one.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	// +optional
	Waits []RotationWait `json:"waits,omitempty"`
}

// RotationWait is one wait of a step.
type RotationWait struct {
	// For describes what the step waited for.
	For string `json:"for"`
	// StartedAt is when the wait began.
	StartedAt metav1.Time `json:"startedAt"`
	// CompletedAt is when the wait ended; unset while it lasts.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Blocked means that the rotation could not go on until somebody acted.
	// +optional
	Blocked bool `json:"blocked,omitempty"`
}
