package nodes

import (
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestUncounted(t *testing.T) {
	const other = "Other"
	for _, test := range []struct {
		condition metav1.Condition
		want      string
	}{
		{metav1.Condition{}, ""},
		{metav1.Condition{Type: other, Reason: policyv1.SyncFailedReason, Message: "no scale"}, ""},
		{
			metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Reason: policyv1.InsufficientPodsReason, Message: "1"},
			"",
		},
		{
			metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Reason: policyv1.SyncFailedReason, Message: "no\nscale"},
			"no scale",
		},
	} {
		b := &policyv1.PodDisruptionBudget{}
		if test.condition.Type != "" {
			b.Status.Conditions = []metav1.Condition{test.condition}
		}
		if got := Uncounted(b); got != test.want {
			t.Errorf("%+v: %q, want %q", test.condition, got, test.want)
		}
	}
}
