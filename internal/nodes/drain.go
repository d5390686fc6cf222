package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kubectl/pkg/drain"
)

// skipTerminatingSeconds is how long past its deadline a terminating pod is waited for on a node that is not
// ready, whose kubelet may never say that the pod has ended.
const skipTerminatingSeconds = 30

// helper is kubectl drain as we use it: pods of DaemonSets stay, emptyDir volumes go with their pods, and pods
// without a controller are ended like all others.
func (c *cluster) helper(ctx context.Context, ready bool) *drain.Helper {
	h := &drain.Helper{
		Ctx: ctx, Client: c.client, Out: io.Discard, ErrOut: io.Discard,
		Force: true, IgnoreAllDaemonSets: true, DeleteEmptyDirData: true, GracePeriodSeconds: -1,
	}
	if !ready {
		h.SkipWaitForDeleteTimeoutSeconds = skipTerminatingSeconds
	}
	return h
}

// cordon marks a node as leaving and keeps new pods away. Crash in between: it is marked, and cordoned by the next plan.
func (c *cluster) cordon(ctx context.Context, node *corev1.Node) error {
	if err := c.patchMeta(ctx, node.Name, "annotations", map[string]string{AnnotationLeaving: "true"}); err != nil {
		return err
	}
	if err := drain.RunCordonOrUncordon(c.helper(ctx, true), node, true); err != nil {
		return fmt.Errorf("cordoning node %s: %w", node.Name, err)
	}
	return nil
}

// podsToEvict lists the pods that are still to leave a node, terminating ones included.
func (c *cluster) podsToEvict(ctx context.Context, node string, ready bool) ([]corev1.Pod, error) {
	list, errs := c.helper(ctx, ready).GetPodsForDeletion(node)
	if len(errs) > 0 {
		return nil, fmt.Errorf("listing the pods to evict from node %s: %w", node, errors.Join(errs...))
	}
	return list.Pods(), nil
}

// evictAll asks every pod that is left on a node to go, once, and waits for none.
func (c *cluster) evictAll(ctx context.Context, s *sight, node string) error {
	pods, listed := s.pods[node]
	if !listed {
		var err error
		if pods, err = c.podsToEvict(ctx, node, usable(s.nodes[node])); err != nil {
			return err
		}
	}
	var errs []error
	for i := range pods {
		if pods[i].DeletionTimestamp == nil {
			errs = append(errs, c.evict(ctx, &pods[i]))
		}
	}
	return errors.Join(errs...)
}

// evict asks one pod to go. That a budget does not allow it is remembered for State.Waiting and no error.
//
// drain.Helper.EvictPod would let client-go obey a Retry-After of ten seconds ten times over, so the
// request is made here, without retries.
func (c *cluster) evict(ctx context.Context, pod *corev1.Pod) error {
	err := c.client.CoreV1().RESTClient().Post().
		Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		Body(&policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))},
		}).
		MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // on its way, gone, or another pod of that name by now: the next look tells
	case apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the end of its namespace deletes it
	case apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), severalBudgets(err):
		return c.noteRefusal(ctx, pod, err)
	default:
		return fmt.Errorf("evicting pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
}

// severalBudgets recognizes the API server's answer for a pod that more than one budget selects, which it never evicts.
// It has no cause of its own.
func severalBudgets(err error) bool {
	return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "more than one PodDisruptionBudget")
}

// noteRefusal remembers that budgets do not let a pod go, and which.
func (c *cluster) noteRefusal(ctx context.Context, pod *corev1.Pod, cause error) error {
	list, err := c.client.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing the PodDisruptionBudgets of namespace %s: %w", pod.Namespace, err)
	}
	var budgets []policyv1.PodDisruptionBudget
	for _, b := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			budgets = append(budgets, b)
		}
	}
	c.refused[pod.UID] = newRefusal(budgets, cause, c.now)
	return nil
}
