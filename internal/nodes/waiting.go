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

	"github.com/keyturn/keyturn/api/v1alpha1"
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
	reasons = append(reasons, toFollow(s.views)...)
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
	case v.refreshing():
		return refreshReasons(v, policyOf(c.UserCluster, v.Refresh.KeyVersion), c.now)
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
		return stuck(name, pod, c.now)
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
func stuck(name string, pod *corev1.Pod, now time.Time) (reason, bool) {
	// The deletion timestamp is the deadline: the request plus the grace period.
	late := now.Sub(pod.DeletionTimestamp.Time)
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

// refreshReasons says what a node is waiting for whose pods are to have new tokens.
func refreshReasons(v view, p policy, now time.Time) []reason {
	var out []reason
	for _, h := range v.Tokens.held {
		out = append(out, reason{words: "node " + v.Name + ": " + h.words, blocked: h.blocked})
	}
	inPlace := p.refresh == v1alpha1.NodeRefreshInPlace
	late := now.Sub(v.Refresh.Since) > minWait
	switch {
	case inPlace && v.Refresh.Kubelet.IsZero():
		return append(out, reason{words: fmt.Sprintf("node %s: its kubelet to be started again", v.Name), blocked: late})
	case !v.Tokens.known:
		return append(out, reason{words: fmt.Sprintf("node %s: its tokens to be readable: %s", v.Name, v.Tokens.trouble)})
	case len(v.Tokens.old) > 0:
		return append(out, oldTokens(v, p, now))
	case inPlace && !v.Heard:
		return append(out, reason{words: fmt.Sprintf("node %s: its kubelet to report", v.Name), blocked: late})
	case !v.renewed(p, now):
		return append(out, reason{words: fmt.Sprintf("node %s: pods that were just being started to have no old token, which is sure at %s",
			v.Name, stamp(v.Refresh.Since.Add(minWait)))})
	case now.Before(v.reloaded(p)):
		return append(out, reason{words: fmt.Sprintf("the applications on node %s to read their new tokens, which is sure at %s",
			v.Name, stamp(v.reloaded(p)))})
	case len(out) == 0:
		return []reason{{words: fmt.Sprintf("node %s to be called one of key version %d", v.Name, p.keyVersion)}}
	default:
		return out
	}
}

// oldTokens says which pod on a node has an old token, and when it will have none.
func oldTokens(v view, p policy, now time.Time) reason {
	words := fmt.Sprintf("node %s: %s to get a token of key version %d", v.Name, v.Tokens.old[0], p.keyVersion)
	if more := len(v.Tokens.old) - 1; more > 0 {
		words += fmt.Sprintf(" (and %d more)", more)
	}
	inPlace := p.refresh == v1alpha1.NodeRefreshInPlace
	switch {
	case inPlace && now.Sub(v.Refresh.Kubelet) > minWait, !inPlace && now.Sub(v.Tokens.sure) > patience:
		return reason{words: words + ", which is overdue: look at the events of the pod and the log of the kubelet", blocked: true}
	case inPlace:
		return reason{words: words}
	default:
		return reason{words: words + ", which is sure by " + stamp(v.Tokens.sure)}
	}
}

// toFollow says how many nodes are to have their tokens replaced after others.
func toFollow(views []view) []reason {
	to, n := 0, 0
	for _, v := range views {
		if v.refreshing() {
			to = max(to, v.Refresh.KeyVersion)
		}
	}
	for _, v := range views {
		n += count(v.Machine && !v.Leaving && v.KeyVersion < to && v.Refresh.KeyVersion < to)
	}
	if n == 0 {
		return nil
	}
	return []reason{{words: fmt.Sprintf("%d more of the nodes to get their turn", n)}}
}

func stamp(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
