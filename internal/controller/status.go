package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/internal/rotation"
)

// patchStatus writes what one round observed and decided, if it differs from the written status.
func (r *Reconciler) patchStatus(
	ctx context.Context, uc *v1alpha1.UserCluster, d rotation.Decision, seen observation,
) error {
	before := uc.DeepCopy()
	now := metav1.NewTime(r.now())
	setReadyCondition(uc, d, now)
	uc.Status.Infrastructure.Type = uc.Spec.Infrastructure.Name()
	uc.Status.KSASigningKey.WaitingFor = d.Waiting
	if !d.Blind { // otherwise, everything in the status remains
		setObserved(uc, d, seen, now)
		setStartAndEnd(before, uc, d, now)
	}
	return r.writeStatus(ctx, before, uc)
}

// setObserved sets everything in the status that one round observed.
func setObserved(uc *v1alpha1.UserCluster, d rotation.Decision, seen observation, now metav1.Time) {
	status := &uc.Status
	status.ObservedGeneration = uc.Generation
	if seen.Adopted {
		keepRetired(uc, seen.keys)
	}
	setKeyStatus(&status.KSASigningKey, d, seen, now)
	setTokens(&status.KSASigningKey, seen)
	setRotationCondition(uc, d, now)
	setTokensCondition(uc, d, seen, now)
	setKubeconfigCondition(uc, seen.kubeconfig, now)
	setControlPlaneStatus(uc, seen)
	status.Publications = publicationStatus(seen)
	if seen.nodesSeen && seen.nodes.HoldersKnown {
		status.KSASigningKey.OldTokens = oldHolders(seen.nodes.Holders)
	}
	if seen.nodesSeen {
		status.NodePools = poolStatus(uc, seen.nodes.Nodes)
	}
}

// maxText is the longest text in a status, in characters. The API accepts 32768 in a condition.
const maxText = 4096

// maxKeyID is the longest kid in a status, in characters: those of Kubernetes have 43.
const maxKeyID = 100

// writeStatus writes a status that has changed, and emits events and metrics for it. Its texts quote servers; they are
// cleaned and cut here, and only here.
func (r *Reconciler) writeStatus(ctx context.Context, before, uc *v1alpha1.UserCluster) error {
	status := &uc.Status
	texts := []*string{&status.KSASigningKey.WaitingFor}
	if old := status.KSASigningKey.OldTokens; old != nil {
		for i := range old.Pods {
			texts = append(texts, &old.Pods[i].Holds)
		}
	}
	for i := range status.Conditions {
		texts = append(texts, &status.Conditions[i].Message)
	}
	for i := range status.Publications {
		texts = append(texts, &status.Publications[i].WaitingFor)
	}
	for _, text := range texts {
		*text = printable.Text(*text, maxText)
	}
	cleanTokens(status.KSASigningKey.Tokens)
	keepTimeLine(uc, metav1.NewTime(r.now()))
	r.tell(before, uc)
	observeMetrics(uc)
	if equality.Semantic.DeepEqual(before.Status, uc.Status) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	// Another controller may have written it since it was read: a status never goes backward.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, uc, patch); err != nil {
		return fmt.Errorf("patching the status of %s: %w", uc.Name, err)
	}
	r.remember(uc).wrote(before.ResourceVersion, uc)
	return nil
}

// patchError reports a round that could observe nothing, and returns err.
func (r *Reconciler) patchError(ctx context.Context, uc *v1alpha1.UserCluster, err error) error {
	before := uc.DeepCopy()
	text := hint.Line(err)
	uc.Status.KSASigningKey.WaitingFor = text
	reason, message := v1alpha1.ReasonCreateOrUpdate, text
	if needsAction(err) {
		reason, message = v1alpha1.ReasonRotationBlocked, "Blocked: "+message
	}
	setCondition(uc, v1alpha1.ConditionReady, false, reason, message, metav1.NewTime(r.now()))
	return errors.Join(err, r.writeStatus(ctx, before, uc))
}

func setKeyStatus(k *v1alpha1.KSASigningKeyStatus, d rotation.Decision, seen observation, now metav1.Time) {
	k.TokenVersion = int32(d.Versions.Token)
	k.PrivateKeyVersion = int32(d.Versions.Private)
	k.PublicKeyVersions = int32s(d.Versions.Public)
	if k.Step != string(d.Step) {
		k.Step, k.StepSince = string(d.Step), &now
	}
	if d.Step == "" {
		k.StepSince = nil
	}
	k.LegacyTokens = seen.legacyCount
	if d.Step == rotation.StepGenerate { // all counted tokens are of the key that is about to be the old one
		k.LegacyTokens.Stale = k.LegacyTokens.Total
	}
	k.Keys = nil
	for _, key := range seen.keys {
		k.Keys = append(k.Keys, v1alpha1.KeyVersionStatus{
			Version: int32(key.Version), KeyID: key.KeyID,
			Algorithm: v1alpha1.Algorithm(key.Algorithm), CreatedAt: metav1.NewTime(key.CreatedAt),
		})
	}
}

func setRotationCondition(uc *v1alpha1.UserCluster, d rotation.Decision, now metav1.Time) {
	reason := v1alpha1.ReasonRotationProcessed
	if d.Done {
		reason = v1alpha1.ReasonRotationCompleted
	}
	setCondition(uc, v1alpha1.ConditionKSASigningKeyRotation, d.Done, reason, versionsMessage(d.Versions), now)
}

// versionsMessage returns the message of the condition KSASigningKeyRotation, as the documented product spells it.
func versionsMessage(v rotation.Versions) string {
	public := v.Public
	if public == nil {
		public = []int{}
	}
	text, err := json.Marshal(struct {
		TokenVersion      int   `json:"tokenVersion"`
		PrivateKeyVersion int   `json:"privateKeyVersion"`
		PublicKeyVersions []int `json:"publicKeyVersions"`
	}{v.Token, v.Private, public})
	if err != nil {
		panic(err) // integers always encode
	}
	return string(text)
}

func setReadyCondition(uc *v1alpha1.UserCluster, d rotation.Decision, now metav1.Time) {
	reason, message := v1alpha1.ReasonReady, "The cluster matches its spec"
	switch {
	case d.Blocked:
		reason, message = v1alpha1.ReasonRotationBlocked, waitingMessage("Blocked", d)
	case d.Blind:
		reason, message = v1alpha1.ReasonNotObserved, waitingMessage("The cluster cannot be observed completely", d)
	case d.Step != "":
		reason = v1alpha1.ReasonRotating
		message = waitingMessage(fmt.Sprintf("Rotating to key version %d, step %s", uc.Spec.KSASigningKey.Version, d.Step), d)
	case d.Action.Kind == rotation.ConvergeNodes:
		reason, message = v1alpha1.ReasonCreateOrUpdate, waitingMessage("Creating or updating user cluster node pools", d)
	case !d.Settled:
		reason, message = v1alpha1.ReasonCreateOrUpdate, waitingMessage("Creating or updating user cluster control plane "+
			"workloads", d)
	}
	setCondition(uc, v1alpha1.ConditionReady, d.Settled, reason, message, now)
}

func waitingMessage(what string, d rotation.Decision) string {
	if d.Waiting == "" {
		return what
	}
	return what + ": waiting for " + d.Waiting
}

func setCondition(uc *v1alpha1.UserCluster, kind string, is bool, reason, message string, now metav1.Time) {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&uc.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: uc.Generation,
		LastTransitionTime: now,
	})
}

func setControlPlaneStatus(uc *v1alpha1.UserCluster, seen observation) {
	status := &uc.Status
	if home := seen.controlPlane.Home; home != "" {
		status.Infrastructure.Local = &v1alpha1.LocalInfrastructureStatus{Home: home}
	}
	if seen.Adopted {
		setAdoptedStatus(uc, seen)
	}
	status.Endpoint = seen.controlPlane.Endpoint
	status.APIServers = nil
	for i, s := range seen.Servers {
		status.APIServers = append(status.APIServers, v1alpha1.APIServerStatus{
			Name: s.Name, Endpoint: seen.controlPlane.Servers[i].Endpoint, Ready: s.Ready && s.Waiting == "",
			SigningVersion: int32(s.Signs), AcceptedVersions: int32s(s.Accepts), ForeignKeyIDs: foreignKeys(s),
		})
	}
}

// maxForeign is how many foreign keys of an API server a status lists.
const maxForeign = 20

// foreignKeys returns the kids of foreign keys as text that can be shown.
func foreignKeys(s rotation.Server) []string {
	var kids []string
	for _, kid := range s.Foreign[:min(len(s.Foreign), maxForeign)] {
		kids = append(kids, printable.Text(kid, maxKeyID))
	}
	return kids
}

// maxHolders is how many pods with old tokens a status lists.
const maxHolders = 20

// oldHolders lists the pods that keep a token of an older key; nil if there are none.
func oldHolders(holders []nodes.Holder) *v1alpha1.OldTokenStatus {
	if len(holders) == 0 {
		return nil
	}
	s := &v1alpha1.OldTokenStatus{Total: int64(len(holders))}
	for _, h := range holders[:min(len(holders), maxHolders)] {
		var held []string
		for _, t := range h.Tokens {
			held = append(held, heldAs(t))
		}
		s.Pods = append(s.Pods, v1alpha1.OldTokenHolder{
			Namespace: h.Namespace, Name: h.Pod, Holds: strings.Join(slices.Compact(held), ", "),
		})
	}
	return s
}

// heldAs describes how a pod holds a token.
func heldAs(t podtokens.Token) string {
	switch {
	case t.Kind == podtokens.Legacy && t.Container == "":
		return fmt.Sprintf("the token of Secret %s by %s", t.Secret, t.Way)
	case t.Kind == podtokens.Legacy:
		return fmt.Sprintf("the token of Secret %s by %s of container %s", t.Secret, t.Way, t.Container)
	default:
		return fmt.Sprintf("a token with the driver of volume %s", t.Volume)
	}
}

func publicationStatus(seen observation) []v1alpha1.PublicationStatus {
	var all []v1alpha1.PublicationStatus
	for i, p := range seen.Publications {
		s := v1alpha1.PublicationStatus{Name: p.Name, AcceptedVersions: int32s(p.Accepts), WaitingFor: p.Waiting}
		if i < len(seen.publications) && !seen.publications[i].seen.PublishedAt.IsZero() {
			// The API stores whole seconds; a fraction would be a change in each round.
			at := metav1.NewTime(seen.publications[i].seen.PublishedAt.Truncate(time.Second))
			s.PublishedAt = &at
		}
		all = append(all, s)
	}
	return append(all, seen.former...)
}

func poolStatus(uc *v1alpha1.UserCluster, all []nodes.Node) []v1alpha1.NodePoolStatus {
	var pools []v1alpha1.NodePoolStatus
	for _, p := range uc.Spec.Infrastructure.NodePools() {
		s := v1alpha1.NodePoolStatus{Name: p.Name}
		for _, n := range all {
			if n.Pool != p.Name {
				continue
			}
			s.Replicas++
			if n.Ready {
				s.Ready++
			}
			if n.KeyVersion >= int(uc.Spec.KSASigningKey.Version) {
				s.Updated++
			}
		}
		pools = append(pools, s)
	}
	return pools
}

// setStartAndEnd records when the running or latest rotation was first seen running and complete.
func setStartAndEnd(before, uc *v1alpha1.UserCluster, d rotation.Decision, now metav1.Time) {
	k := &uc.Status.KSASigningKey
	was := before.Status.KSASigningKey
	running := was.StartedAt != nil && was.CompletedAt == nil
	// Every rotation begins with this step, even one that was requested before the last one had ended.
	begins := d.Step == rotation.StepGenerate && was.Step != string(rotation.StepGenerate)
	switch {
	case !running && d.Step != "", begins:
		k.StartedAt, k.CompletedAt = &now, nil
	case running && d.Done:
		k.CompletedAt = &now
	}
}

func int32s(versions []int) []int32 {
	var out []int32
	for _, v := range versions {
		out = append(out, int32(v))
	}
	return out
}
