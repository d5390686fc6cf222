package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// RotationStatus is the time line of one rotation.
type RotationStatus struct {
	// Version is the key version that it rotates to.
	Version int32 `json:"version"`
	// StartedAt is when it was seen to start.
	StartedAt metav1.Time `json:"startedAt"`
	// CompletedAt is when it was seen to be complete; none while it runs.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Steps are its steps, in the order in which they began first.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=5
	// +optional
	Steps []RotationStep `json:"steps,omitempty"`
}

// RotationStep is the time line of one step of a rotation.
type RotationStep struct {
	// Name is Generate, Publish, Switch, Refresh or Retire.
	Name string `json:"name"`
	// StartedAt is when the step began first: it may begin again, for example when an API server joins.
	StartedAt metav1.Time `json:"startedAt"`
	// CompletedAt is when the step ended last; none while it runs.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Waits are what the step waited for the longest, in the order in which it did, and what it waits for now.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	// +optional
	Waits []RotationWait `json:"waits,omitempty"`
}

// RotationWait is something that a step waited for.
type RotationWait struct {
	// For is what was waited for, in words.
	For string `json:"for"`
	// StartedAt is when the wait began.
	StartedAt metav1.Time `json:"startedAt"`
	// CompletedAt is when the wait ended; none while it lasts.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Blocked means that somebody had to act.
	// +optional
	Blocked bool `json:"blocked,omitempty"`
}
