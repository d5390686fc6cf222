package cli

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// planned is a cluster whose key version was stored at a time, and is the only one if done.
func planned(name string, version int32, created time.Time, done bool) v1alpha1.UserCluster {
	uc := v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Name: name}}
	uc.Spec.KSASigningKey.Version = version
	if !created.IsZero() {
		uc.Status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{{Version: version, CreatedAt: metav1.NewTime(created)}}
	}
	if done {
		uc.Status.Conditions = []metav1.Condition{
			{Type: v1alpha1.ConditionKSASigningKeyRotation, Status: metav1.ConditionTrue},
		}
	}
	return uc
}

// TestPlanRotations plans for clusters in every state, in any order.
func TestPlanRotations(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	before := func(days int) time.Time { return now.AddDate(0, 0, -days) }
	advanced, deleted := planned("advanced", 1, before(200), true), planned("deleted", 1, before(200), true)
	advanced.Spec.EnableAdvancedCluster = true
	deleted.DeletionTimestamp = &metav1.Time{Time: now}
	clusters := []v1alpha1.UserCluster{
		planned("oldest", 3, before(200), true), planned("under-way", 2, before(0), false), advanced, deleted,
		planned("just-old", 1, before(90), true), planned("as-old", 1, before(90), true),
		planned("young", 1, before(90).Add(time.Second), true), planned("new", 1, time.Time{}, false),
		planned("unknown", 2, time.Time{}, true),
	}
	want := []string{
		"under-way: to key version 2 is under way",
		"oldest: to key version 4",
		"as-old: to key version 2",
		"just-old: to key version 2",
		"new: none: it has no key version yet",
		"unknown: none: the age of its key is not known",
		"advanced: none: keys of advanced clusters cannot be rotated",
		"deleted: none: it is being deleted",
		"young: none: its key is younger than 90d",
	}
	for _, order := range [][]v1alpha1.UserCluster{clusters, reversed(clusters)} {
		var got []string
		for _, p := range planRotations(order, 90*24*time.Hour, now) {
			got = append(got, p.Cluster+": "+p.words())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("planned (-want +got):\n%s", diff)
		}
	}
	for _, p := range planRotations(clusters, 0, now) {
		if rotates := p.Action == actionRotate; rotates != slices.Contains(
			[]string{"oldest", "just-old", "as-old", "young", "unknown"}, p.Cluster) {
			t.Errorf("of any age, %s: %s", p.Cluster, p.words())
		}
	}
}

func reversed(clusters []v1alpha1.UserCluster) []v1alpha1.UserCluster {
	clusters = slices.Clone(clusters)
	slices.Reverse(clusters)
	return clusters
}
