// Package eviction asks the API server to evict pods, one request each, and describes why it refuses.
//
// Start with Each. Package pools drains nodes with it, and package evict replaces pods on nodes that stay.
package eviction

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/internal/webhooks"
)

// patience is how long the API server may take to answer. Admission webhooks may delay it by half a minute for each
// pod.
const patience = 3 * time.Second

const (
	// askers is how many evictions are requested at once.
	askers = 8
	// budget is how long one call of Each may take, so that slow webhooks do not keep a round from its other work.
	budget = 10 * time.Second
)

// Each requests the eviction of all these pods, once, several at a time, and calls answered with the result of each,
// one call after another. If the API server is slow to answer, the last pods are not asked for in this call.
func Each(
	ctx context.Context, client kubernetes.Interface, pods []*corev1.Pod, now time.Time,
	answered func(pod *corev1.Pod, r Refusal, refused bool),
) error {
	var mu sync.Mutex
	var errs []error
	var work sync.WaitGroup
	slots := make(chan struct{}, askers)
	for began, i := time.Now(), 0; i < len(pods) && time.Since(began) < budget; i++ {
		slots <- struct{}{}
		work.Go(func() {
			r, refused, err := request(ctx, client, pods[i], now)
			<-slots
			mu.Lock()
			defer mu.Unlock()
			if errs = append(errs, err); err == nil {
				answered(pods[i], r, refused)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// request requests the eviction of one pod, once, and waits neither for its end nor for a budget to change. It needs
// the name, UID and labels of the pod. A refusal is not an error; an error means that the API server could not be
// asked.
//
// drain.Helper.EvictPod of kubectl would let client-go follow a Retry-After of ten seconds ten times, so the request is
// made here, without retries.
func request(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, now time.Time) (Refusal, bool, error) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := client.CoreV1().RESTClient().Post().
		Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		Body(&policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))},
		}).
		MaxRetries(0).Do(asking).Error()
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return Refusal{}, false, nil // terminating, gone, or replaced by another of that name; the next round sees which
	case apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return Refusal{}, false, nil // the end of its namespace deletes it
	case apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), severalBudgets(err):
		r, err := ofBudgets(ctx, client, pod, err, now)
		return r, err == nil, err
	case asking.Err() != nil && ctx.Err() == nil:
		why := webhooks.Explain(asking, client, err, webhooks.Nodes...)
		return Refusal{Since: now, Words: fmt.Sprintf("the API server does not answer within %s: %s; fix what is slow, "+
			"or delete the pod", patience, printable.Line(why.Error()))}, true, nil
	}
	if r, ok := byServer(err, now); ok {
		return r, true, nil
	}
	return Refusal{}, false, fmt.Errorf("evicting pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// byServer returns the refusal of the API server or of an admission webhook, which its answer names.
func byServer(err error, now time.Time) (Refusal, bool) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return Refusal{}, false
	}
	code := status.Status().Code
	return Refusal{
		Since: now, Words: printable.Line(err.Error()) + "; make it allow evictions, or delete the pod",
		Hopeless: code >= http.StatusBadRequest && code < http.StatusInternalServerError && !apierrors.IsTooManyRequests(err),
	}, true
}

// severalBudgets recognizes the API server's answer for a pod that several budgets select, which it never evicts. The
// answer has no specific cause.
func severalBudgets(err error) bool {
	return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "more than one PodDisruptionBudget")
}

// ofBudgets finds the budgets that do not let a pod go.
func ofBudgets(
	ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, cause error, now time.Time,
) (Refusal, error) {
	list, err := client.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return Refusal{}, fmt.Errorf("listing the PodDisruptionBudgets of namespace %s: %w", pod.Namespace, err)
	}
	var budgets []policyv1.PodDisruptionBudget
	for _, b := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			budgets = append(budgets, b)
		}
	}
	return byBudgets(budgets, cause, now), nil
}
