package nodes

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/keyturn/keyturn/internal/printable"
)

// Uncounted returns why kube-controller-manager cannot count the pods of a budget, in its words; empty if it can. Such
// a budget lets none of its pods go. The other numbers in its status do not matter: they may be old, or 0.
//
// This happens with maxUnavailable, or a percentage, for pods without a controller or with one that has no scale.
func Uncounted(b *policyv1.PodDisruptionBudget) string {
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if c == nil || c.Reason != policyv1.SyncFailedReason {
		return ""
	}
	return printable.Line(c.Message)
}
