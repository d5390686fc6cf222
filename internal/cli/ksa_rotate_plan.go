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

// rotationAction is what `rotate --all` does with one cluster.
type rotationAction string

const (
	// actionFollow waits for a rotation that is under way.
	actionFollow rotationAction = "Follow"
	actionRotate rotationAction = "Rotate"
	actionNone   rotationAction = "None"
)

// plannedRotation is what `rotate --all` does with one cluster, as `--dry-run -o json` gives it.
type plannedRotation struct {
	Cluster string `json:"cluster"`
	// KSASigningKeyVersion is the key version that is wanted now, and CreatedAt is when it was stored.
	KSASigningKeyVersion int32          `json:"ksaSigningKeyVersion"`
	CreatedAt            *metav1.Time   `json:"createdAt,omitempty"`
	Action               rotationAction `json:"action"`
	// Reason is why nothing is done, in words.
	Reason string `json:"reason,omitempty"`

	read *v1alpha1.UserCluster
}

// target is the key version that the cluster has after the rotation.
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

// planRotations returns what is done with each cluster: rotations that are under way first, then those of the oldest
// keys, and clusters with which nothing is done last.
func planRotations(clusters []v1alpha1.UserCluster, olderThan time.Duration, now time.Time) []plannedRotation {
	plan := make([]plannedRotation, 0, len(clusters))
	for i := range clusters {
		plan = append(plan, planRotation(&clusters[i], olderThan, now))
	}
	order := []rotationAction{actionFollow, actionRotate, actionNone}
	slices.SortFunc(plan, func(a, b plannedRotation) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Action), slices.Index(order, b.Action)),
			a.createdAt().Compare(b.createdAt()), cmp.Compare(a.Cluster, b.Cluster))
	})
	return plan
}

// createdAt is the zero time if it is not known.
func (p plannedRotation) createdAt() time.Time {
	if p.CreatedAt == nil {
		return time.Time{}
	}
	return p.CreatedAt.Time
}

func planRotation(uc *v1alpha1.UserCluster, olderThan time.Duration, now time.Time) plannedRotation {
	version := uc.Spec.KSASigningKey.Version
	p := plannedRotation{
		Cluster: uc.Name, KSASigningKeyVersion: version, CreatedAt: keyCreatedAt(uc, version), Action: actionNone, read: uc,
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

// keyCreatedAt is when a key version of a cluster was stored; nil if the status does not tell.
func keyCreatedAt(uc *v1alpha1.UserCluster, version int32) *metav1.Time {
	for _, key := range uc.Status.KSASigningKey.Keys {
		if key.Version == version {
			return &key.CreatedAt
		}
	}
	return nil
}
