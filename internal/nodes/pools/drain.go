package pools

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

	"github.com/keyturn/keyturn/internal/webhooks"
)

// skipTerminatingSeconds is how long past its deadline a terminating pod is waited for on a node that is not
// ready, whose kubelet may never report that the pod has ended.
const skipTerminatingSeconds = 30

// helper is kubectl drain as we use it: pods of DaemonSets stay, emptyDir volumes go with their pods, and pods
// without a controller are ended like all others.
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

// podsToEvict lists the pods that are still to leave a node, terminating ones included.
func (e *Executor) podsToEvict(ctx context.Context, node string, ready bool) ([]corev1.Pod, error) {
	list, errs := e.helper(ctx, ready).GetPodsForDeletion(node)
	if len(errs) > 0 {
		return nil, fmt.Errorf("listing the pods to evict from node %s: %w", node, errors.Join(errs...))
	}
	return list.Pods(), nil
}

// evictAll asks every pod that is left on a node to go, once, and waits for none.
func (e *Executor) evictAll(ctx context.Context, s *Observed, node string) error {
	pods, listed := s.pods[node]
	if !listed {
		var err error
		if pods, err = e.podsToEvict(ctx, node, usable(s.objects[node])); err != nil {
			return err
		}
	}
	var errs []error
	for i := range pods {
		if pods[i].DeletionTimestamp == nil {
			errs = append(errs, e.evict(ctx, &pods[i]))
		}
	}
	return errors.Join(errs...)
}

// evict asks one pod to go. A budget that does not allow it is no error, but remembered for Reasons.
//
// drain.Helper.EvictPod would let client-go obey a Retry-After of ten seconds ten times over, so the
// request is made here, without retries.
func (e *Executor) evict(ctx context.Context, pod *corev1.Pod) error {
	err := e.Client.CoreV1().RESTClient().Post().
		Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		Body(&policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))},
		}).
		MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // on its way, gone, or another pod of that name by now: the next observation shows which
	case apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the end of its namespace deletes it
	case apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), severalBudgets(err):
		return e.noteRefusal(ctx, pod, err)
	default:
		return fmt.Errorf("evicting pod %s/%s: %w", pod.Namespace, pod.Name,
			webhooks.Explain(ctx, e.Client, err, webhooks.Nodes...))
	}
}

// severalBudgets recognizes the API server's answer for a pod that more than one budget selects, which it never evicts.
// It has no cause of its own.
func severalBudgets(err error) bool {
	return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "more than one PodDisruptionBudget")
}

// noteRefusal remembers that budgets do not let a pod go, and which.
func (e *Executor) noteRefusal(ctx context.Context, pod *corev1.Pod, cause error) error {
	list, err := e.Client.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
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
	e.refused[pod.UID] = newRefusal(budgets, cause, e.Now)
	return nil
}
