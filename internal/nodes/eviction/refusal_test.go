package eviction

import (
	"errors"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestRefusal(t *testing.T) {
	budget := func(name string, allowed, desired, healthy, expected int32) policyv1.PodDisruptionBudget {
		return policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Generation: 1},
			Status: policyv1.PodDisruptionBudgetStatus{
				ObservedGeneration: 1, DisruptionsAllowed: allowed, DesiredHealthy: desired, CurrentHealthy: healthy,
				ExpectedPods: expected,
			},
		}
	}
	unprocessed := budget("new", 0, 1, 1, 1)
	unprocessed.Generation = 2
	uncounted := budget("odd", 0, 0, 0, 0) // never processed either: a failure is not an observation
	uncounted.Generation = 1
	uncounted.Status.Conditions = []metav1.Condition{{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: "found no controller ref for pod \"bare\"",
	}}
	list := func(b ...policyv1.PodDisruptionBudget) []policyv1.PodDisruptionBudget { return b }
	tests := []struct {
		name     string
		budgets  []policyv1.PodDisruptionBudget
		words    string
		hopeless bool
	}{
		{"none is left", nil, "too many requests", false},
		{"it allows one by now", list(budget("b", 1, 1, 2, 2)), "too many requests", false},
		{"of as many pods as there can be", list(budget("b", 0, 2, 2, 2)),
			"PodDisruptionBudget ns/b allows no disruption (it needs 2 healthy pods and has 2 of 2): add a replica, or relax " +
				"or delete the budget", true},
		{"of more pods than there can be", list(budget("b", 0, 3, 2, 2)),
			"PodDisruptionBudget ns/b allows no disruption (it needs 3 healthy pods and has 2 of 2): add a replica, or relax " +
				"or delete the budget", true},
		{"a pod is not ready", list(budget("b", 0, 2, 1, 3)),
			"PodDisruptionBudget ns/b allows no disruption (it needs 2 healthy pods and has 1 of 3): more of its pods must " +
				"become ready", false},
		{"not processed", list(unprocessed),
			"PodDisruptionBudget ns/new has not been processed by kube-controller-manager yet: more of its pods must become " +
				"ready", false},
		{"nobody can count them", list(uncounted), "PodDisruptionBudget ns/odd allows no disruption, since " +
			"kube-controller-manager cannot count its pods (found no controller ref for pod \"bare\"): " +
			"set minAvailable of the budget to a number of pods, or delete it", true},
		{"several", list(budget("a", 1, 1, 2, 2), budget("b", 1, 1, 2, 2)),
			"PodDisruptionBudget ns/a allows no disruption (it needs 1 healthy pods and has 2 of 2) and " +
				"PodDisruptionBudget ns/b allows no disruption (it needs 1 healthy pods and has 2 of 2): " +
				"a pod that several budgets select is never evicted; keep one of them", true},
	}
	for _, test := range tests {
		got := byBudgets(test.budgets, errors.New("too many requests"), noon)
		if got.Words != test.words || got.Hopeless != test.hopeless || !got.Since.Equal(noon) {
			t.Errorf("%s: got  %+v\nwant %q, %t", test.name, got, test.words, test.hopeless)
		}
	}
}
