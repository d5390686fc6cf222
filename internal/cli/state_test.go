package cli

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// TestDoneIsTheControllers has the condition decide whether a rotation is done, and never the versions beside it.
func TestDoneIsTheControllers(t *testing.T) {
	for _, test := range []struct {
		name       string
		condition  metav1.ConditionStatus
		generation int64 // the condition's; the spec has generation 5
		token      int32 // the spec wants key version 2
		public     []int32
		done       bool
	}{
		{"complete", metav1.ConditionTrue, 5, 2, []int32{2}, true},
		{"complete, as the controller defines it", metav1.ConditionTrue, 5, 2, []int32{1, 2}, true},
		{"complete, then another change", metav1.ConditionTrue, 4, 2, []int32{2}, true},
		{"complete by the controller's definition, then another change", metav1.ConditionTrue, 4, 2, []int32{1, 2}, true},
		{"complete, then the next rotation", metav1.ConditionTrue, 4, 1, []int32{1}, false},
		{"versions alone", metav1.ConditionFalse, 5, 2, []int32{2}, false},
		{"versions alone, then another change", metav1.ConditionFalse, 4, 2, []int32{2}, false},
		{"no condition", "", 0, 2, []int32{2}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Generation: 5}}
			uc.Spec.KSASigningKey.Version = 2
			uc.Status.KSASigningKey = v1alpha1.KSASigningKeyStatus{
				TokenVersion: test.token, PrivateKeyVersion: test.token, PublicKeyVersions: test.public,
			}
			if test.condition != "" {
				uc.Status.Conditions = []metav1.Condition{{
					Type: v1alpha1.ConditionKSASigningKeyRotation, Status: test.condition, ObservedGeneration: test.generation,
				}}
			}
			if got := rotationOf(uc).done(); got != test.done {
				t.Errorf("done = %v, want %v", got, test.done)
			}
		})
	}
}
