package eviction

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

// Refusal is why a pod was not evicted.
type Refusal struct {
	// Since is when it was first refused.
	Since time.Time
	// Words describe who refuses, why, and what to do.
	Words string
	// Hopeless means that it does not pass without help.
	Hopeless bool
}

// Reason returns what the eviction of a pod waits for.
func (r Refusal) Reason(pod *corev1.Pod, now time.Time) nodes.Reason {
	lasted := now.Sub(r.Since)
	return nodes.Reason{
		Words:   fmt.Sprintf("%s to be evicted: %s", nodes.PodName(pod), r.Words) + nodes.Lasting(lasted),
		Blocked: r.Hopeless || lasted > nodes.Patience,
	}
}

// byBudgets returns the refusal of budgets.
func byBudgets(budgets []policyv1.PodDisruptionBudget, cause error, now time.Time) Refusal {
	r := Refusal{Since: now}
	var words []string
	uncounted := false
	for i := range budgets {
		b := &budgets[i]
		if b.Status.DisruptionsAllowed > 0 && len(budgets) == 1 {
			continue // it allows one by now
		}
		words = append(words, budgetWords(b))
		r.Hopeless = r.Hopeless || neverAllows(b)
		uncounted = uncounted || nodes.Uncounted(b) != ""
	}
	switch {
	case len(budgets) > 1:
		r.Hopeless = true
		r.Words = strings.Join(words, " and ") + ": a pod that several budgets select is never evicted; keep one of them"
	case len(words) == 0:
		r.Words = cause.Error()
	case uncounted:
		r.Words = words[0] + ": set minAvailable of the budget to a number of pods, or delete it"
	case r.Hopeless:
		r.Words = words[0] + ": add a replica, or relax or delete the budget"
	default:
		r.Words = words[0] + ": more of its pods must become ready"
	}
	return r
}

// neverAllows reports whether a budget requires as many healthy pods as there can be, or pods that cannot be counted.
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
