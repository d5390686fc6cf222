package pools

import (
	"fmt"
	"strings"
	"time"

	policyv1 "k8s.io/api/policy/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

// refusal is an eviction that the API server did not allow.
type refusal struct {
	since time.Time
	// words are which budgets refuse, why, and what to do.
	words string
	// hopeless means that it does not pass without help.
	hopeless bool
}

func newRefusal(budgets []policyv1.PodDisruptionBudget, cause error, now time.Time) refusal {
	r := refusal{since: now}
	var words []string
	uncounted := false
	for i := range budgets {
		b := &budgets[i]
		if b.Status.DisruptionsAllowed > 0 && len(budgets) == 1 {
			continue // it allows one by now
		}
		words = append(words, budgetWords(b))
		r.hopeless = r.hopeless || neverAllows(b)
		uncounted = uncounted || nodes.Uncounted(b) != ""
	}
	switch {
	case len(budgets) > 1:
		r.hopeless = true
		r.words = strings.Join(words, " and ") + ": a pod that several budgets select is never evicted; keep one of them"
	case len(words) == 0:
		r.words = cause.Error()
	case uncounted:
		r.words = words[0] + ": have the budget ask for minAvailable as a number of pods, or delete it"
	case r.hopeless:
		r.words = words[0] + ": add a replica, or relax or delete the budget"
	default:
		r.words = words[0] + ": more of its pods must become ready"
	}
	return r
}

// neverAllows reports whether a budget wants as many healthy pods as there can be, or more than anybody can count.
func neverAllows(b *policyv1.PodDisruptionBudget) bool {
	return nodes.Uncounted(b) != "" ||
		b.Status.ObservedGeneration >= b.Generation && b.Status.DesiredHealthy >= b.Status.ExpectedPods
}

func budgetWords(b *policyv1.PodDisruptionBudget) string {
	name := fmt.Sprintf("PodDisruptionBudget %s/%s", b.Namespace, b.Name)
	if why := nodes.Uncounted(b); why != "" {
		return fmt.Sprintf("%s allows no disruption, since kube-controller-manager cannot count its pods (%s)", name, why)
	}
	if b.Status.ObservedGeneration < b.Generation {
		return name + " has not been processed by kube-controller-manager yet"
	}
	return fmt.Sprintf("%s allows no disruption (it needs %d healthy pods and has %d of %d)",
		name, b.Status.DesiredHealthy, b.Status.CurrentHealthy, b.Status.ExpectedPods)
}
