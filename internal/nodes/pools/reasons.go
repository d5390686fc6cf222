package pools

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

// Reasons returns what the pools wait for, by node.
func (e *Executor) Reasons(s *Observed) []nodes.Reason {
	var reasons []nodes.Reason
	machines := map[string]int{}
	for _, v := range s.Views {
		machines[v.Pool] += count(v.Machine && !v.Leaving)
		reasons = append(reasons, e.reasons(s, v)...)
	}
	for _, p := range e.Pools {
		if n := machines[p.Name]; n < int(p.Replicas) {
			reasons = append(reasons, nodes.Reason{
				Words: fmt.Sprintf("node pool %s to have %d machines (it has %d)", p.Name, p.Replicas, n),
			})
		}
	}
	return reasons
}

// reasons returns what a machine or node waits for.
func (e *Executor) reasons(s *Observed, v View) []nodes.Reason {
	switch {
	case !v.Machine:
		return one("node %s to be deleted, whose machine is gone", v.Name)
	case v.Leaving && v.Running && len(s.pods[v.Name]) > 0:
		return e.podReasons(v.Name, s.pods[v.Name])
	case v.Leaving:
		return one("node %s to be deleted", v.Name)
	case !v.Running:
		return one("machine %s to run", v.Name)
	case !v.Registered:
		awaited := e.Memory.awaited(v.Name, e.Now)
		return []nodes.Reason{{
			Words:   fmt.Sprintf("machine %s to join the cluster", v.Name) + nodes.Lasting(awaited),
			Blocked: awaited > e.JoinTimeout/2,
		}}
	case !v.Ready:
		return []nodes.Reason{unready(s.objects[v.Name], e.JoinTimeout/2, e.Now)}
	case !v.Labelled:
		return one("node %s to get the labels of its pool", v.Name)
	default:
		return nil
	}
}

func one(format, name string) []nodes.Reason {
	return []nodes.Reason{{Words: fmt.Sprintf(format, name)}}
}

func unready(node *corev1.Node, patience time.Duration, now time.Time) nodes.Reason {
	ready := nodes.ReadyCondition(node)
	lasted := now.Sub(ready.LastTransitionTime.Time)
	if ready.LastTransitionTime.IsZero() {
		lasted = now.Sub(node.CreationTimestamp.Time)
	}
	words := fmt.Sprintf("node %s to be ready", node.Name)
	if ready.Status != corev1.ConditionTrue && ready.Message != "" {
		words += " (" + ready.Message + ")"
	}
	return nodes.Reason{Words: words + nodes.Lasting(lasted), Blocked: lasted > patience}
}

// podReasons returns why pods are still on a node that is leaving.
func (e *Executor) podReasons(node string, pods []corev1.Pod) []nodes.Reason {
	var out []nodes.Reason
	ending := 0
	for i := range pods {
		r, stands := e.podReason(&pods[i])
		if stands {
			out = append(out, r)
			continue
		}
		ending++
	}
	if ending > 0 {
		out = append(out, nodes.Reason{
			Words: fmt.Sprintf("node %s to be drained (%d pods are still to end)", node, ending),
		})
	}
	return out
}

// podReason returns why a pod is still there; false if it only needs the usual time to end.
func (e *Executor) podReason(pod *corev1.Pod) (nodes.Reason, bool) {
	if pod.DeletionTimestamp != nil {
		return nodes.StuckPod(pod, e.Now)
	}
	r, ok := e.Memory.refusal(pod.UID)
	if !ok {
		return nodes.Reason{}, false
	}
	return r.Reason(pod, e.Now), true
}
