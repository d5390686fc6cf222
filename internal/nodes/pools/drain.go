package pools

import (
	"context"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubectl/pkg/drain"

	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

// skipTerminatingSeconds is how long after its deadline a terminating pod is waited for on a node that is not ready,
// whose kubelet may never report that the pod has ended.
const skipTerminatingSeconds = 30

// helper returns kubectl drain's helper: pods of DaemonSets stay, emptyDir volumes are deleted with their pods, and
// pods without a controller are evicted like all others.
func (e *Executor) helper(ctx context.Context, ready bool) *drain.Helper {
	h := &drain.Helper{
		Ctx: ctx, Client: e.Client, Out: io.Discard, ErrOut: io.Discard,
		Force: true, IgnoreAllDaemonSets: true, DeleteEmptyDirData: true, GracePeriodSeconds: -1,
	}
	if !ready {
		h.SkipWaitForDeleteTimeoutSeconds = skipTerminatingSeconds
	}
	return h
}

// keepPodsAway cordons a node.
func (e *Executor) keepPodsAway(ctx context.Context, node *corev1.Node) error {
	if err := drain.RunCordonOrUncordon(e.helper(ctx, true), node, true); err != nil {
		return fmt.Errorf("cordoning node %s: %w", node.Name, err)
	}
	return nil
}

// podsToEvict lists the pods that must still leave a node, including terminating ones.
func (e *Executor) podsToEvict(ctx context.Context, node string, ready bool) ([]corev1.Pod, error) {
	list, errs := e.helper(ctx, ready).GetPodsForDeletion(node)
	if len(errs) > 0 {
		return nil, fmt.Errorf("listing the pods to evict from node %s: %w", node, errors.Join(errs...))
	}
	return list.Pods(), nil
}

// evictAll requests the eviction of every pod left on a node, once, and waits for none. A refusal is not an error, but
// recorded for Reasons. Pods that were refused before come last, so that they do not delay others.
func (e *Executor) evictAll(ctx context.Context, s *Observed, node string) error {
	pods, listed := s.pods[node]
	if !listed {
		var err error
		if pods, err = e.podsToEvict(ctx, node, usable(s.objects[node])); err != nil {
			return err
		}
	}
	remember := func(pod *corev1.Pod, r eviction.Refusal, refused bool) {
		if refused {
			e.refused[pod.UID] = r
		}
	}
	return eviction.Each(ctx, e.Client, e.Memory.order(pods), e.Now, remember)
}
