package controller

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// The actions of events: what the controller was doing.
const (
	actionRotate   = "RotateKSASigningKey"
	actionConverge = "ConvergeCluster"
	actionDelete   = "DeleteCluster"
)

// tell emits an event for each change that a person would want to read about later.
func (r *Reconciler) tell(before, uc *v1alpha1.UserCluster) {
	was, is := before.Status.KSASigningKey, uc.Status.KSASigningKey
	if is.Step != was.Step {
		r.Log.Info("step", "cluster", uc.Name, "step", is.Step, "before", was.Step, "version", uc.Spec.KSASigningKey.Version)
	}
	if is.WaitingFor != was.WaitingFor && is.WaitingFor != "" {
		r.Log.Info("waiting", "cluster", uc.Name, "step", is.Step, "for", is.WaitingFor)
	}
	switch {
	case is.Step != "" && is.Step != was.Step:
		r.event(uc, corev1.EventTypeNormal, is.Step, actionRotate, stepText(uc))
	case is.CompletedAt != nil && was.CompletedAt == nil:
		r.event(uc, corev1.EventTypeNormal, v1alpha1.ReasonRotationCompleted, actionRotate,
			fmt.Sprintf("key version %d is the only one in use", uc.Spec.KSASigningKey.Version))
		if old := is.OldTokens; old != nil {
			r.event(uc, corev1.EventTypeWarning, v1alpha1.ReasonOldTokens, actionRotate,
				fmt.Sprintf("pods keep a dead token until they restart (%d): %s", old.Total, holderNames(old)))
		}
	}
	r.tellTokens(before, uc)
	ready := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady)
	wasReady := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady)
	if ready.Reason == v1alpha1.ReasonRotationBlocked && (wasReady == nil || wasReady.Message != ready.Message) {
		action := actionConverge
		if is.Step != "" {
			action = actionRotate
		}
		r.event(uc, corev1.EventTypeWarning, ready.Reason, action, ready.Message)
	}
}

// tellTokens emits an event when the old key is retired although tokens of it are valid.
func (r *Reconciler) tellTokens(before, uc *v1alpha1.UserCluster) {
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionKSATokensExpired)
	is := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionKSATokensExpired)
	if is != nil && is.Reason == v1alpha1.ReasonRetiredInUse && (was == nil || was.Reason != is.Reason) {
		r.event(uc, corev1.EventTypeWarning, is.Reason, actionRotate, is.Message)
	}
}

// holderNames lists the pods that a status names.
func holderNames(old *v1alpha1.OldTokenStatus) string {
	var names []string
	for _, p := range old.Pods {
		names = append(names, fmt.Sprintf("%s/%s (%s)", p.Namespace, p.Name, p.Holds))
	}
	return strings.Join(names, ", ")
}

// longestNote is the longest note of an event that the API accepts, in bytes, with room for an ellipsis.
const longestNote = 1024 - len("…")

func (r *Reconciler) event(uc *v1alpha1.UserCluster, kind, reason, action, text string) {
	if len(text) > longestNote {
		text = strings.ToValidUTF8(text[:longestNote], "") + "…"
	}
	r.Recorder.Eventf(uc, nil, kind, reason, action, "%s", text)
	if r.Also == nil {
		return
	}
	if also := r.Also(uc); also != nil {
		r.Recorder.Eventf(also, uc, kind, reason, action, "%s", text)
	}
}

func stepText(uc *v1alpha1.UserCluster) string {
	wanted := uc.Spec.KSASigningKey.Version
	switch uc.Status.KSASigningKey.Step {
	case "Generate":
		return fmt.Sprintf("generating key version %d", wanted)
	case "Publish":
		return fmt.Sprintf("making every verifier accept key versions %d and %d", wanted-1, wanted)
	case "Switch":
		return fmt.Sprintf("making every API server, and then kube-controller-manager, sign with key version %d", wanted)
	case "Refresh":
		return fmt.Sprintf("re-signing legacy tokens with key version %d, and then %s", wanted,
			refreshText(uc.Spec.NodeRefresh()))
	default:
		return fmt.Sprintf("removing key version %d everywhere", wanted-1)
	}
}

// refreshText describes what is done about the tokens of running pods.
func refreshText(how v1alpha1.NodeRefresh) string {
	switch how {
	case v1alpha1.NodeRefreshInPlace:
		return "making kubelets replace the tokens of running pods"
	case v1alpha1.NodeRefreshWait:
		return "waiting for kubelets to replace the tokens of running pods"
	case v1alpha1.NodeRefreshEvict:
		return "evicting the pods with tokens"
	default:
		return "replacing the nodes"
	}
}
