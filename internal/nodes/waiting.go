package nodes

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

const (
	// Patience is how long something that usually resolves itself may last before it counts as blocked.
	Patience = time.Minute
	// stuckAfter is how long after its deadline a terminating pod counts as stuck.
	stuckAfter = 30 * time.Second
	// maxReasons is how many reasons Join includes in full.
	maxReasons = 3
)

// Reason is one thing that is waited for.
type Reason struct {
	// Words follow the rules of State.Waiting.
	Words string
	// Blocked means that somebody must act.
	Blocked bool
}

// Join combines reasons to State.Waiting and State.Blocked. Those that block come first.
func Join(reasons []Reason) (words string, blocked bool) {
	first := slices.Clone(reasons)
	slices.SortStableFunc(first, func(a, b Reason) int {
		switch {
		case a.Blocked == b.Blocked:
			return 0
		case a.Blocked:
			return -1
		}
		return 1
	})
	var out []string
	for i, r := range first {
		blocked = blocked || r.Blocked
		if i < maxReasons {
			out = append(out, r.Words)
		}
	}
	if more := len(first) - maxReasons; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; "), blocked
}

// Lasting returns a suffix for a reason that names its duration, or nothing if it is short.
func Lasting(d time.Duration) string {
	if d < Patience {
		return ""
	}
	return ", for " + duration.HumanDuration(d)
}

// StuckPod returns why a terminating pod does not end; false if it is not late.
func StuckPod(pod *corev1.Pod, now time.Time) (Reason, bool) {
	// The deletion timestamp is the deadline: the request plus the grace period.
	late := now.Sub(pod.DeletionTimestamp.Time)
	if late < stuckAfter {
		return Reason{}, false
	}
	if pod.DeletionGracePeriodSeconds != nil {
		late += time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	words := fmt.Sprintf("%s to end, which has been terminating for %s", PodName(pod), duration.HumanDuration(late))
	if len(pod.Finalizers) > 0 {
		words += fmt.Sprintf(": whoever set its finalizers %s must remove them", strings.Join(pod.Finalizers, ", "))
	} else {
		words += ": inspect its containers and volumes, or delete it by force"
	}
	return Reason{Words: words, Blocked: true}, true
}

// PodName returns the name of a pod for reasons.
func PodName(pod *corev1.Pod) string {
	name := fmt.Sprintf("pod %s/%s", pod.Namespace, pod.Name)
	if pod.Spec.NodeName != "" {
		name += " on node " + pod.Spec.NodeName
	}
	return name
}

// ReadyCondition returns the condition Ready of a node; zero if there is none.
func ReadyCondition(node *corev1.Node) corev1.NodeCondition {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}
