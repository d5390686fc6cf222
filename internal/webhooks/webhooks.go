// Package webhooks finds the admission webhooks of a cluster that requests of a rotation go through.
//
// A webhook that does not answer delays each request that it matches for up to half a minute, regardless of its failure
// policy. List reads all webhooks. Hook.Catches is pure. Unserved finds webhooks that can never answer.
//
// The namespace and object selectors and the conditions of a webhook are not evaluated: a webhook that might be called
// counts as called.
package webhooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/printable"
)

// Request is a kind of request to the API server.
type Request struct {
	Operation       admissionv1.OperationType
	Group, Resource string
	// Subresource is empty for the resource itself.
	Subresource string
}

// String describes a request for messages.
func (r Request) String() string {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	return strings.ToLower(string(r.Operation)) + " " + resource
}

// The requests of the parts of a rotation.
var (
	// Proof has the requests of the proof of one API server.
	Proof = []Request{
		{admissionv1.Create, "authentication.k8s.io", "tokenreviews", ""},
		{admissionv1.Create, "", "serviceaccounts", "token"},
		{admissionv1.Create, "", "serviceaccounts", ""},
	}
	// Legacy has the requests that bring new legacy tokens into pods.
	Legacy = []Request{
		{admissionv1.Update, "", "secrets", ""},
		{admissionv1.Update, "", "pods", ""},
	}
	// Nodes has the requests that replace nodes.
	Nodes = []Request{
		{admissionv1.Create, "", "pods", "eviction"},
		{admissionv1.Delete, "", "pods", ""},
		{admissionv1.Create, "", "pods", ""},
		{admissionv1.Create, "", "nodes", ""},
		{admissionv1.Update, "", "nodes", ""},
		{admissionv1.Update, "", "nodes", "status"},
		{admissionv1.Delete, "", "nodes", ""},
		{admissionv1.Update, "coordination.k8s.io", "leases", ""},
	}
)

// Hook is one admission webhook.
type Hook struct {
	// Configuration is the object that contains it, such as "ValidatingWebhookConfiguration policy", and Name its own
	// name.
	Configuration, Name string
	// Service answers for it; nil if it has a URL.
	Service *types.NamespacedName
	// Ignored means that a request continues if it does not answer.
	Ignored bool
	// Timeout is how long the API server waits for its answer.
	Timeout time.Duration
	Rules   []admissionv1.RuleWithOperations
}

// String describes a webhook, and what happens to requests if it does not answer.
func (h Hook) String() string {
	fate := "fails"
	if h.Ignored {
		fate = "continues"
	}
	return fmt.Sprintf("webhook %s of %s (a request waits for it for %s, and then %s)", h.Name, h.Configuration, h.Timeout,
		fate)
}

// The defaults of the API.
const defaultTimeout = 10 * time.Second

// List returns all webhooks of a cluster: first those that may change objects.
func List(ctx context.Context, client kubernetes.Interface) ([]Hook, error) {
	mutating, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing MutatingWebhookConfigurations: %w", err)
	}
	validating, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing ValidatingWebhookConfigurations: %w", err)
	}
	var all []Hook
	for _, c := range mutating.Items {
		for _, w := range c.Webhooks {
			all = append(all,
				hook("MutatingWebhookConfiguration "+c.Name, w.Name, w.ClientConfig, w.FailurePolicy, w.TimeoutSeconds, w.Rules))
		}
	}
	for _, c := range validating.Items {
		for _, w := range c.Webhooks {
			all = append(all,
				hook("ValidatingWebhookConfiguration "+c.Name, w.Name, w.ClientConfig, w.FailurePolicy, w.TimeoutSeconds, w.Rules))
		}
	}
	return all, nil
}

func hook(
	configuration, name string, c admissionv1.WebhookClientConfig, policy *admissionv1.FailurePolicyType, seconds *int32,
	rules []admissionv1.RuleWithOperations,
) Hook {
	h := Hook{
		Configuration: configuration, Name: printable.Line(name), Rules: rules, Timeout: defaultTimeout,
		Ignored: policy != nil && *policy == admissionv1.Ignore,
	}
	if seconds != nil {
		h.Timeout = time.Duration(*seconds) * time.Second
	}
	if c.Service != nil {
		h.Service = &types.NamespacedName{Namespace: c.Service.Namespace, Name: c.Service.Name}
	}
	return h
}

// Catching returns the webhooks that any of these requests goes through.
func Catching(all []Hook, requests ...Request) []Hook {
	return slices.DeleteFunc(slices.Clone(all), func(h Hook) bool { return !slices.ContainsFunc(requests, h.Catches) })
}

// Catches reports whether a request goes through the webhook.
func (h Hook) Catches(r Request) bool {
	return slices.ContainsFunc(h.Rules, func(rule admissionv1.RuleWithOperations) bool { return catches(rule, r) })
}

func catches(rule admissionv1.RuleWithOperations, r Request) bool {
	return matches(rule.Operations, admissionv1.OperationAll, r.Operation) && matches(rule.APIGroups, "*", r.Group) &&
		slices.ContainsFunc(rule.Resources, func(pattern string) bool { return covers(pattern, r) })
}

func matches[S ~string](list []S, all, one S) bool {
	return slices.Contains(list, all) || slices.Contains(list, one)
}

// covers reports whether a rule's resource matches a request: pods, pods/status, pods/*, */status, * (no subresources)
// or */* (everything).
func covers(pattern string, r Request) bool {
	resource, subresource, cut := strings.Cut(pattern, "/")
	return (resource == "*" || resource == r.Resource) &&
		(!cut && r.Subresource == "" || cut && (subresource == "*" || subresource == r.Subresource))
}

// Unserved returns why a webhook can never answer: its service does not exist, or none of its pods is ready. It is
// empty for a webhook that may answer, and for one with a URL.
func Unserved(ctx context.Context, client kubernetes.Interface, h Hook) (string, error) {
	if h.Service == nil {
		return "", nil
	}
	service, err := client.CoreV1().Services(h.Service.Namespace).Get(ctx, h.Service.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Sprintf("its Service %s does not exist", h.Service), nil
	}
	if err != nil {
		return "", fmt.Errorf("reading Service %s: %w", h.Service, err)
	}
	if service.Spec.ExternalName != "" {
		return "", nil
	}
	list, err := client.DiscoveryV1().EndpointSlices(h.Service.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "kubernetes.io/service-name=" + h.Service.Name,
	})
	if err != nil {
		return "", fmt.Errorf("listing the endpoints of Service %s: %w", h.Service, err)
	}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				return "", nil
			}
		}
	}
	return fmt.Sprintf("its Service %s has no ready endpoint", h.Service), nil
}

// suspectTimeout limits reading the webhooks after a request that was canceled.
const suspectTimeout = time.Second

// suspects names the webhooks that requests of these kinds go through; empty if there are none, or they cannot be read.
// It works even if ctx has ended.
func suspects(ctx context.Context, client kubernetes.Interface, requests ...Request) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), suspectTimeout)
	defer cancel()
	all, err := List(ctx, client)
	if err != nil {
		return ""
	}
	var names []string
	for _, h := range Catching(all, requests...) {
		names = append(names, h.String())
	}
	return strings.Join(names, ", ")
}

// Error is a request that failed because of webhooks.
type Error struct {
	err error
	// blame names those that may have kept the request too long; empty if err names one.
	blame string
}

// Error names the webhooks.
func (e *Error) Error() string { return printable.Line(e.err.Error()) + e.blame }

// Unwrap returns the error of the request.
func (e *Error) Unwrap() error { return e.err }

// cutOff is appended for requests that our own deadline has canceled.
const cutOff = "; it was cut off for taking too long, which is no refusal"

// Explain returns an *Error if err means that a webhook could not be called, or if the deadline of ctx has canceled the
// request and requests of these kinds go through webhooks. For any canceled request, the error says so.
func Explain(ctx context.Context, client kubernetes.Interface, err error, requests ...Request) error {
	switch {
	case isFailedCall(err):
		return &Error{err: err}
	case err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return err
	}
	if names := suspects(ctx, client, requests...); names != "" {
		return &Error{err: err, blame: cutOff + ": such requests go through " + names}
	}
	return fmt.Errorf("%w"+cutOff, err)
}

// isFailedCall reports whether an API server could not call a webhook; see ErrCallingWebhook in
// k8s.io/apiserver/pkg/util/webhook, which has no reason or cause of its own.
func isFailedCall(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && strings.Contains(status.Status().Message, "failed calling webhook")
}
