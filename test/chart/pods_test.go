package chart

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TestWhatSelectsThePods wants everything that selects the pods of the controllers to select them: a Service, a
// PodDisruptionBudget, a NetworkPolicy and what spreads them.
func TestWhatSelectsThePods(t *testing.T) {
	objects := named(render(t, "--set", "podLabels.team=platform"))
	var deployment appsv1.Deployment
	var service corev1.Service
	var budget policyv1.PodDisruptionBudget
	var policy networkingv1.NetworkPolicy
	for name, into := range map[string]any{
		"Deployment/keyturn-controller": &deployment, "Service/keyturn-controller-metrics": &service,
		"PodDisruptionBudget/keyturn-controller": &budget, "NetworkPolicy/keyturn-controller": &policy,
	} {
		if objects[name] == nil {
			t.Fatalf("there is no %s", name)
		}
		convert(t, objects[name], into)
	}
	pod := deployment.Spec.Template
	for what, selector := range map[string]*metav1.LabelSelector{
		"the Deployment":            deployment.Spec.Selector,
		"the Service":               {MatchLabels: service.Spec.Selector},
		"the PodDisruptionBudget":   budget.Spec.Selector,
		"the NetworkPolicy":         &policy.Spec.PodSelector,
		"topologySpreadConstraints": pod.Spec.TopologySpreadConstraints[0].LabelSelector,
	} {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || s.Empty() || !s.Matches(labels.Set(pod.Labels)) {
			t.Errorf("%s selects by %v, %v: want it to select pods with %v", what, s, err, pod.Labels)
		}
		if s.Matches(labels.Set{"app.kubernetes.io/name": "keyturn-controller", "app.kubernetes.io/instance": "other"}) {
			t.Errorf("%s selects pods of other releases", what)
		}
	}
	if *deployment.Spec.Replicas != 2 || budget.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("%d controllers, of which %v may be away; want 2 and 1",
			*deployment.Spec.Replicas, budget.Spec.MaxUnavailable)
	}
	checkPolicy(t, policy.Spec, pod.Spec.Containers[0])
}

// checkPolicy wants nothing but the port of the metrics to be reached.
func checkPolicy(t *testing.T, policy networkingv1.NetworkPolicySpec, container corev1.Container) {
	t.Helper()
	if len(policy.PolicyTypes) != 1 || policy.PolicyTypes[0] != networkingv1.PolicyTypeIngress ||
		len(policy.Ingress) != 1 || len(policy.Ingress[0].Ports) != 1 {
		t.Fatalf("the NetworkPolicy is %+v, want one port of ingress", policy)
	}
	port := policy.Ingress[0].Ports[0].Port.String()
	for _, p := range container.Ports {
		if p.Name == port && p.Name == "metrics" {
			return
		}
	}
	t.Errorf("the NetworkPolicy opens port %s of %v, want that of the metrics", port, container.Ports)
}
