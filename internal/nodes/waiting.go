package nodes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

const (
	// patience is how long something that usually passes by itself may last before it counts as blocked.
	patience = time.Minute
	// stuckAfter is how long past its deadline a terminating pod counts as stuck.
	stuckAfter = 30 * time.Second
	// maxReasons is how many reasons Waiting spells out.
	maxReasons = 3
)

// refusal is an eviction that the API server did not allow.
type refusal struct {
	since time.Time
	// words say which budgets refuse, why, and what to do.
	words string
	// hopeless says that it does not pass by itself.
	hopeless bool
}

func newRefusal(budgets []policyv1.PodDisruptionBudget, cause error, now time.Time) refusal {
	r := refusal{since: now}
	var words []string
	for i := range budgets {
		b := &budgets[i]
		if b.Status.DisruptionsAllowed > 0 && len(budgets) == 1 {
			continue // it allows one by now
		}
		words = append(words, budgetWords(b))
		r.hopeless = r.hopeless || neverAllows(b)
	}
	switch {
	case len(budgets) > 1:
		r.hopeless = true
		r.words = strings.Join(words, " and ") + ": a pod that several budgets select is never evicted; keep one of them"
	case len(words) == 0:
		r.words = cause.Error()
	case r.hopeless:
		r.words = words[0] + ": add a replica, or relax or delete the budget"
	default:
		r.words = words[0] + ": more of its pods must become ready"
	}
	return r
}

// neverAllows says that a budget wants as many healthy pods as there can be.
func neverAllows(b *policyv1.PodDisruptionBudget) bool {
	return b.Status.ObservedGeneration >= b.Generation && b.Status.DesiredHealthy >= b.Status.ExpectedPods
}

func budgetWords(b *policyv1.PodDisruptionBudget) string {
	name := fmt.Sprintf("PodDisruptionBudget %s/%s", b.Namespace, b.Name)
	if b.Status.ObservedGeneration < b.Generation {
		return name + " has not been processed by kube-controller-manager yet"
	}
	return fmt.Sprintf("%s allows no disruption (it needs %d healthy pods and has %d of %d)",
		name, b.Status.DesiredHealthy, b.Status.CurrentHealthy, b.Status.ExpectedPods)
}

// reason is one thing that is waited for.
type reason struct {
	words   string
	blocked bool
}

// state puts a look into the words of the port.
func (c *cluster) state(s *sight) State {
	var st State
	var reasons []reason
	machines := map[string]int{}
	for _, v := range slices.SortedFunc(slices.Values(s.views), func(a, b view) int { return cmp.Compare(a.Name, b.Name) }) {
		st.Nodes = append(st.Nodes, Node{
			Name: v.Name, Pool: v.Pool, KeyVersion: v.KeyVersion, Ready: v.Ready, Deleting: v.Leaving,
		})
		machines[v.Pool] += count(v.Machine && !v.Leaving)
		reasons = append(reasons, c.reasons(s, v)...)
	}
	for _, p := range c.Spec.NodePools {
		if n := machines[p.Name]; n < int(p.Replicas) {
			reasons = append(reasons, reason{words: fmt.Sprintf("node pool %s has %d of %d machines", p.Name, n, p.Replicas)})
		}
	}
	st.Waiting, st.Blocked = join(reasons)
	return st
}

// join spells out the reasons, those first that block.
func join(reasons []reason) (words string, blocked bool) {
	slices.SortStableFunc(reasons, func(a, b reason) int { return cmp.Compare(count(b.blocked), count(a.blocked)) })
	var out []string
	for i, r := range reasons {
		blocked = blocked || r.blocked
		if i < maxReasons {
			out = append(out, r.words)
		}
	}
	if more := len(reasons) - maxReasons; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; "), blocked
}

// reasons says what a machine or node is waiting for.
func (c *cluster) reasons(s *sight, v view) []reason {
	switch {
	case !v.Machine:
		return []reason{{words: fmt.Sprintf("node %s has no machine any more and is to be deleted", v.Name)}}
	case v.Leaving && v.Running && len(s.pods[v.Name]) > 0:
		return c.podReasons(v.Name, s.pods[v.Name])
	case v.Leaving:
		return []reason{{words: fmt.Sprintf("node %s is to be deleted", v.Name)}}
	case !v.Running:
		return []reason{{words: fmt.Sprintf("machine %s does not run yet", v.Name)}}
	case !v.Registered:
		awaited := c.memory.awaited(v.Name, c.now)
		return []reason{{
			words:   fmt.Sprintf("machine %s has not joined the cluster yet", v.Name) + since(awaited),
			blocked: awaited > c.joinTimeout/2,
		}}
	case !v.Ready:
		return []reason{c.unready(s.nodes[v.Name])}
	case !v.Labelled:
		return []reason{{words: fmt.Sprintf("node %s lacks labels of its pool", v.Name)}}
	default:
		return nil
	}
}

func (c *cluster) unready(node *corev1.Node) reason {
	ready := readyCondition(node)
	lasted := c.now.Sub(ready.LastTransitionTime.Time)
	if ready.LastTransitionTime.IsZero() {
		lasted = c.now.Sub(node.CreationTimestamp.Time)
	}
	words := fmt.Sprintf("node %s is not ready", node.Name)
	if ready.Status != corev1.ConditionTrue && ready.Message != "" {
		words += " (" + ready.Message + ")"
	}
	return reason{words: words + since(lasted), blocked: lasted > c.joinTimeout/2}
}

// podReasons says why pods are still on a node that is leaving.
func (c *cluster) podReasons(node string, pods []corev1.Pod) []reason {
	var out []reason
	ending := 0
	for i := range pods {
		r, stands := c.podReason(&pods[i])
		if stands {
			out = append(out, r)
			continue
		}
		ending++
	}
	if ending > 0 {
		out = append(out, reason{words: fmt.Sprintf("node %s is being drained: %d pods are still to end", node, ending)})
	}
	return out
}

// podReason says what keeps a pod, if it is more than the time that pods take to end.
func (c *cluster) podReason(pod *corev1.Pod) (reason, bool) {
	name := fmt.Sprintf("pod %s/%s on node %s", pod.Namespace, pod.Name, pod.Spec.NodeName)
	if pod.DeletionTimestamp != nil {
		return c.stuck(name, pod)
	}
	r, ok := c.memory.refusal(pod.UID)
	if !ok {
		return reason{}, false
	}
	lasted := c.now.Sub(r.since)
	return reason{
		words:   fmt.Sprintf("%s cannot be evicted: %s", name, r.words) + since(lasted),
		blocked: r.hopeless || lasted > patience,
	}, true
}

// stuck says since when a pod that is past its deadline has been terminating, and what may hold it.
func (c *cluster) stuck(name string, pod *corev1.Pod) (reason, bool) {
	// The deletion timestamp is the deadline: the request plus the grace period.
	late := c.now.Sub(pod.DeletionTimestamp.Time)
	if late < stuckAfter {
		return reason{}, false
	}
	if pod.DeletionGracePeriodSeconds != nil {
		late += time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	words := fmt.Sprintf("%s has been terminating for %s", name, duration.HumanDuration(late))
	if len(pod.Finalizers) > 0 {
		words += fmt.Sprintf(": whoever set its finalizers %s must remove them", strings.Join(pod.Finalizers, ", "))
	} else {
		words += ": look at its containers and volumes, or delete it by force"
	}
	return reason{words: words, blocked: true}, true
}

// since puts a time that is long enough to be of interest into words.
func since(d time.Duration) string {
	if d < patience {
		return ""
	}
	return ", for " + duration.HumanDuration(d)
}
