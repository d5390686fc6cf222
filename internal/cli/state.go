package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// versions are the three key versions of a rotation, as `status` prints them.
type versions struct {
	TokenVersion      int32   `json:"tokenVersion"`
	PrivateKeyVersion int32   `json:"privateKeyVersion"`
	PublicKeyVersions []int32 `json:"publicKeyVersions"`
}

// rotationState is the state of the key of one cluster. It is the output of `status -o json`.
type rotationState struct {
	Cluster string `json:"cluster"`
	// KSASigningKeyVersion is the wanted key version.
	KSASigningKeyVersion int32                  `json:"ksaSigningKeyVersion"`
	Status               metav1.ConditionStatus `json:"status"`
	Reason               string                 `json:"reason"`
	versions
	Step         string                       `json:"step,omitempty"`
	WaitingFor   string                       `json:"waitingFor,omitempty"`
	StepSince    *metav1.Time                 `json:"stepSince,omitempty"`
	StartedAt    *metav1.Time                 `json:"startedAt,omitempty"`
	CompletedAt  *metav1.Time                 `json:"completedAt,omitempty"`
	LegacyTokens legacyTokens                 `json:"legacyTokens"`
	OldTokens    *v1alpha1.OldTokenStatus     `json:"oldTokens,omitempty"`
	APIServers   []v1alpha1.APIServerStatus   `json:"apiServers"`
	Publications []v1alpha1.PublicationStatus `json:"publications"`
	// Leftovers are files with private keys that a person must delete.
	Leftovers []v1alpha1.LeftoverKey `json:"leftovers,omitempty"`
	// LeftoverSecrets are Secrets that may hold a retired private key.
	LeftoverSecrets []string `json:"leftoverSecrets,omitempty"`

	message string
}

// legacyTokens counts legacy tokens. Unlike in the API, zeros are not omitted.
type legacyTokens struct {
	Total int64 `json:"total"`
	Stale int64 `json:"stale"`
}

// rotationOf summarizes the state of a cluster's key. The controller's condition decides whether a rotation is done. A
// condition from before the latest change of the spec counts only if the tokens already had the wanted key version: the
// change was then not a rotation.
func rotationOf(uc *v1alpha1.UserCluster) rotationState {
	key := uc.Status.KSASigningKey
	s := rotationState{
		Cluster:              uc.Name,
		KSASigningKeyVersion: uc.Spec.KSASigningKey.Version,
		Status:               metav1.ConditionFalse,
		Reason:               v1alpha1.ReasonRotationProcessed,
		versions: versions{
			TokenVersion: key.TokenVersion, PrivateKeyVersion: key.PrivateKeyVersion,
			PublicKeyVersions: append([]int32{}, key.PublicKeyVersions...),
		},
		Step: key.Step, WaitingFor: key.WaitingFor, StepSince: key.StepSince,
		StartedAt: key.StartedAt, CompletedAt: key.CompletedAt,
		LegacyTokens: legacyTokens(key.LegacyTokens), OldTokens: key.OldTokens,
		APIServers:   append([]v1alpha1.APIServerStatus{}, uc.Status.APIServers...),
		Publications: append([]v1alpha1.PublicationStatus{}, uc.Status.Publications...),
		Leftovers:    leftovers(uc), LeftoverSecrets: leftoverSecrets(uc),
	}
	s.message = s.versions.String()
	condition := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionKSASigningKeyRotation)
	if condition != nil && (condition.ObservedGeneration >= uc.Generation || s.TokenVersion == s.KSASigningKeyVersion) {
		s.Status, s.Reason, s.message = condition.Status, condition.Reason, condition.Message
	}
	return s
}

// done reports whether the wanted key version is the only one.
func (s rotationState) done() bool { return s.Status == metav1.ConditionTrue }

func (v versions) String() string {
	text, err := json.Marshal(v)
	must(err)
	return string(text)
}

// text returns the state exactly as the documented product prints it.
func (s rotationState) text() string {
	return fmt.Sprintf("State of KSASigningKeyRotation with KSASigningKeyVersion %d is -\nstatus: %s,\nreason: %s,\n"+
		"message:%s\n",
		s.KSASigningKeyVersion, s.Status, s.Reason, s.message)
}

// readyOf returns the condition Ready. It is False with a reason until the latest change has been observed.
func readyOf(uc *v1alpha1.UserCluster) metav1.Condition {
	condition := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady)
	if condition == nil || condition.ObservedGeneration < uc.Generation {
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCreateOrUpdate,
			Message: "waiting for the controller"}
	}
	return *condition
}

// blocked reports whether somebody must act before the cluster can go on.
func blocked(uc *v1alpha1.UserCluster) bool {
	return readyOf(uc).Reason == v1alpha1.ReasonRotationBlocked
}

// kubernetesVersion returns the version that the spec names; a dash if it names none.
func kubernetesVersion(uc *v1alpha1.UserCluster) string {
	if local := uc.Spec.Infrastructure.Local; local != nil {
		return local.KubernetesVersion
	}
	return "-"
}

// wantedServers returns the number of API servers in the spec, or the observed number if the spec sets none.
func wantedServers(uc *v1alpha1.UserCluster) int {
	if local := uc.Spec.Infrastructure.Local; local != nil {
		return int(local.ControlPlane.Replicas)
	}
	return len(uc.Status.APIServers)
}

// untilReady is a look that ends when a cluster matches its spec.
func untilReady(uc *v1alpha1.UserCluster) (step, detail string, done bool) {
	if uc == nil {
		return "gone", "", false
	}
	ready := readyOf(uc)
	if ready.Status == metav1.ConditionTrue {
		return "ready", "", true
	}
	if ready.Reason == v1alpha1.ReasonCreateOrUpdate {
		// The message begins with a text for the reason.
		step, detail, _ = strings.Cut(ready.Message, ": ")
		return step, detail, false
	}
	return ready.Reason, ready.Message, false
}
