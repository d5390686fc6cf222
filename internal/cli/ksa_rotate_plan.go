package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// rotationAction is what `rotate --all` does with a cluster.
type rotationAction string

const (
	// actionFollow waits for a rotation that is running.
	actionFollow rotationAction = "Follow"
	actionRotate rotationAction = "Rotate"
	actionNone   rotationAction = "None"
)

// plannedRotation is what `rotate --all` does with one cluster. It is the output of `--dry-run -o json`.
type plannedRotation struct {
	Namespace string `json:"namespace"`
	Cluster   string `json:"cluster"`
	// KSASigningKeyVersion is the current wanted key version, and CreatedAt is when it was stored.
	KSASigningKeyVersion int32          `json:"ksaSigningKeyVersion"`
	CreatedAt            *metav1.Time   `json:"createdAt,omitempty"`
	Action               rotationAction `json:"action"`
	// Reason is why nothing is done.
	Reason string `json:"reason,omitempty"`

	read *v1alpha1.UserCluster
}

// target returns the key version of the cluster after the rotation.
func (p plannedRotation) target() int32 {
	if p.Action == actionRotate {
		return p.KSASigningKeyVersion + 1
	}
	return p.KSASigningKeyVersion
}

func (p plannedRotation) words() string {
	switch p.Action {
	case actionRotate:
		return fmt.Sprintf("to key version %d", p.target())
	case actionFollow:
		return fmt.Sprintf("to key version %d is under way", p.target())
	}
	return "none: " + p.Reason
}

// planRotations returns what is done with each cluster: first rotations that are running, then those of the oldest
// keys, and last the clusters that are skipped.
func planRotations(clusters []v1alpha1.UserCluster, olderThan time.Duration, now time.Time) []plannedRotation {
	plan := make([]plannedRotation, 0, len(clusters))
	for i := range clusters {
		plan = append(plan, planRotation(&clusters[i], olderThan, now))
	}
	order := []rotationAction{actionFollow, actionRotate, actionNone}
	slices.SortFunc(plan, func(a, b plannedRotation) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Action), slices.Index(order, b.Action)),
			a.createdAt().Compare(b.createdAt()), cmp.Compare(a.Cluster, b.Cluster),
			cmp.Compare(a.Namespace, b.Namespace))
	})
	return plan
}

// createdAt returns the zero time if it is unknown.
func (p plannedRotation) createdAt() time.Time {
	if p.CreatedAt == nil {
		return time.Time{}
	}
	return p.CreatedAt.Time
}

func planRotation(uc *v1alpha1.UserCluster, olderThan time.Duration, now time.Time) plannedRotation {
	version := uc.Spec.KSASigningKey.Version
	p := plannedRotation{
		Namespace: uc.Namespace, Cluster: uc.Name, KSASigningKeyVersion: version, CreatedAt: keyCreatedAt(uc, version),
		Action: actionNone, read: uc,
	}
	switch done := rotationOf(uc).done(); {
	case uc.DeletionTimestamp != nil:
		p.Reason = "it is being deleted"
	case uc.Spec.EnableAdvancedCluster:
		p.Reason = "keys of advanced clusters cannot be rotated"
	case !done && version == 1:
		p.Reason = "it has no key version yet"
	case !done:
		p.Action = actionFollow
	case olderThan > 0 && p.CreatedAt == nil:
		p.Reason = "the age of its key is not known"
	case olderThan > 0 && now.Sub(p.CreatedAt.Time) < olderThan:
		p.Reason = "its key is younger than " + model.Duration(olderThan).String()
	default:
		p.Action = actionRotate
	}
	return p
}

// keyCreatedAt returns when a key version of a cluster was stored; nil if the status does not contain it.
func keyCreatedAt(uc *v1alpha1.UserCluster, version int32) *metav1.Time {
	for _, key := range uc.Status.KSASigningKey.Keys {
		if key.Version == version {
			return &key.CreatedAt
		}
	}
	return nil
}
