package controller_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// The events of a rotation to key version 2.
var rotationEvents = []string{
	"Normal RotateKSASigningKey Generate: generating key version 2",
	"Normal RotateKSASigningKey Publish: making every verifier accept key versions 1 and 2",
	"Normal RotateKSASigningKey Switch: making every API server, and then kube-controller-manager, sign with key " +
		"version 2",
	"Normal RotateKSASigningKey Refresh: re-signing legacy tokens with key version 2, and then replacing the nodes",
	"Normal RotateKSASigningKey Retire: removing key version 1 everywhere",
	"Normal RotateKSASigningKey KSASigningKeyRotationCompleted: key version 2 is the only one in use",
}

func TestRotate(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue", threeServers)
	also := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "blue-too", UID: "1"}}
	w.reconciler.Also = func(*v1alpha1.UserCluster) runtime.Object { return also }
	w.rotate(blue)
	var seen []string
	w.until(blue, isSettled, func(uc *v1alpha1.UserCluster) {
		seen = append(seen, uc.Status.KSASigningKey.Step+" "+condition(uc, v1alpha1.ConditionKSASigningKeyRotation).Message)
		if !isSettled(uc) {
			w.checkRunning(uc)
		}
	})
	want := []string{
		`Generate {"tokenVersion":1,"privateKeyVersion":1,"publicKeyVersions":[1]}`,
		`Publish {"tokenVersion":1,"privateKeyVersion":1,"publicKeyVersions":[1]}`,
		`Publish {"tokenVersion":1,"privateKeyVersion":1,"publicKeyVersions":[1,2]}`,
		`Switch {"tokenVersion":1,"privateKeyVersion":1,"publicKeyVersions":[1,2]}`,
		`Refresh {"tokenVersion":1,"privateKeyVersion":1,"publicKeyVersions":[1,2]}`,
		`Refresh {"tokenVersion":1,"privateKeyVersion":2,"publicKeyVersions":[1,2]}`,
		`Retire {"tokenVersion":2,"privateKeyVersion":2,"publicKeyVersions":[1,2]}`,
		` {"tokenVersion":2,"privateKeyVersion":2,"publicKeyVersions":[2]}`,
	}
	if got := slices.Compact(seen); !slices.Equal(got, want) {
		t.Errorf("the status went through\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w.wantOnly(blue, 2)
	if told := w.events(blue); !slices.Equal(told, rotationEvents) {
		t.Errorf("events:\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(rotationEvents, "\n"))
	}
	if told := w.events(client.ObjectKeyFromObject(also)); !slices.Equal(told, rotationEvents) {
		t.Errorf("events of what they are also about:\n%s", strings.Join(told, "\n"))
	}
	if log := w.shown.String(); strings.Count(log, "msg=step") != len(rotationEvents) {
		t.Errorf("the log does not tell each step once:\n%s", log)
	}

	k := w.get(blue).Status.KSASigningKey
	if k.CompletedAt.Before(k.StartedAt) || k.CompletedAt == nil || k.StepSince != nil {
		t.Errorf("started %v, completed %v, step since %v", k.StartedAt, k.CompletedAt, k.StepSince)
	}
	wantSteps(t, k.Rotations)
	if last := w.metric("keyturn_rotation_last_success_timestamp_seconds", blue)[""]; int64(last) != k.CompletedAt.Unix() {
		t.Errorf("metric of the last success = %v, want %v", last, k.CompletedAt.Unix())
	}
	w.rotate(blue)
	w.until(blue, isSettled)
	w.wantOnly(blue, 3)
}

// wantSteps wants the time line of one rotation to version 2 that is complete.
func wantSteps(t *testing.T, all []v1alpha1.RotationStatus) {
	t.Helper()
	if len(all) != 1 || all[0].Version != 2 || all[0].CompletedAt == nil {
		t.Fatalf("the time lines are %+v, want that of a complete rotation to version 2", all)
	}
	var steps []string
	for _, s := range all[0].Steps {
		steps = append(steps, s.Name)
		if s.CompletedAt == nil || s.StartedAt.Before(&all[0].StartedAt) || all[0].CompletedAt.Before(s.CompletedAt) {
			t.Errorf("step %s lasted from %v to %v", s.Name, s.StartedAt, s.CompletedAt)
		}
	}
	if want := []string{"Generate", "Publish", "Switch", "Refresh", "Retire"}; !slices.Equal(steps, want) {
		t.Errorf("the steps were %v, want %v", steps, want)
	}
}

// checkRunning wants what is true all the time while a rotation runs.
func (w *world) checkRunning(uc *v1alpha1.UserCluster) {
	w.Helper()
	k := uc.Status.KSASigningKey
	rotated := condition(uc, v1alpha1.ConditionKSASigningKeyRotation)
	if rotated.Status != metav1.ConditionFalse || rotated.Reason != v1alpha1.ReasonRotationProcessed {
		w.Errorf("in step %s, the rotation is %s, %s", k.Step, rotated.Status, rotated.Reason)
	}
	if ready := condition(uc, v1alpha1.ConditionReady); ready.Status != metav1.ConditionFalse ||
		ready.Reason != v1alpha1.ReasonRotating {
		w.Errorf("in step %s, the cluster is %s, %s: %s", k.Step, ready.Status, ready.Reason, ready.Message)
	}
	if k.StartedAt == nil || k.CompletedAt != nil || k.StepSince == nil {
		w.Errorf("in step %s since %v: started %v, completed %v", k.Step, k.StepSince, k.StartedAt, k.CompletedAt)
	}
	if m := w.metric("keyturn_rotation_step", objectKey(uc)); m[k.Step] != 1 || len(m) != 5 {
		w.Errorf("in step %s, the metric of the steps is %v", k.Step, m)
	}
	err := w.raise(objectKey(uc))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(),
		"requests must not modify KSASigningKeyVersion when cluster is not ready") {
		w.Errorf("in step %s, a second rotation is not refused: %v", k.Step, err)
	}
}

// TestLegacyTokensLeft has a rotation tell from its beginning how many legacy tokens are left to re-sign, as far as an
// earlier one counted them.
func TestLegacyTokensLeft(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	w.rotate(blue)
	w.until(blue, isSettled)
	w.rotate(blue)
	if got := w.until(blue, inStep("Publish")).Status.KSASigningKey.LegacyTokens; got.Total != 2 || got.Stale != 2 {
		t.Errorf("in Publish, legacy tokens are %+v", got)
	}
	if got := w.until(blue, inStep("Retire")).Status.KSASigningKey.LegacyTokens; got.Total != 2 || got.Stale != 0 {
		t.Errorf("in Retire, legacy tokens are %+v", got)
	}
}

// TestStoredKeyGoesLast keeps the control plane from deleting its file of the old key: until it has done so, the
// key stays in the store.
func TestStoredKeyGoesLast(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	w.rotate(blue)
	w.with(blue, func(c *userCluster) { c.hoards = true })
	const why = "the private key of version 1 to be gone from the disks of the control plane"
	w.until(blue, func(uc *v1alpha1.UserCluster) bool { return uc.Status.KSASigningKey.WaitingFor == why })
	for range 3 {
		uc := w.round(blue)
		if stored := w.stored(blue); !slices.Equal(stored, []int{1, 2}) || !inStep("Retire")(uc) {
			t.Errorf("in step %q, key versions %v are stored, want both", uc.Status.KSASigningKey.Step, stored)
		}
	}
	w.with(blue, func(c *userCluster) { c.hoards = false })
	w.until(blue, isSettled)
	w.wantOnly(blue, 2)
}

func TestBlocked(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	w.rotate(blue)
	w.with(blue, func(c *userCluster) { c.guarded = true })
	w.until(blue, isBlocked)
	const why = "Blocked: waiting for pod default/web on node node-1 to be evicted: PodDisruptionBudget default/web " +
		"allows no disruption"
	for range 3 {
		uc := w.round(blue)
		w.wantCondition(uc, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRotationBlocked, why)
		if m := w.metric("keyturn_rotation_blocked", blue)[""]; m != 1 || !inStep("Refresh")(uc) {
			t.Errorf("in step %s, the metric is %v", uc.Status.KSASigningKey.Step, m)
		}
	}
	w.with(blue, func(c *userCluster) { c.guarded = false })
	wantSteps(t, w.until(blue, isSettled).Status.KSASigningKey.Rotations)
	w.wantOnly(blue, 2)
	if m := w.metric("keyturn_rotation_blocked", blue)[""]; m != 0 {
		t.Errorf("at the end, the metric is %v", m)
	}
	want := slices.Insert(slices.Clone(rotationEvents), 4,
		"Warning RotateKSASigningKey KSASigningKeyRotationBlocked: "+why)
	if told := w.events(blue); !slices.Equal(told, want) {
		t.Errorf("events:\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

// TestLostKey takes away, in mid-rotation, the key that every token is of.
func TestLostKey(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	w.rotate(blue)
	started := w.until(blue, inStep("Switch")).Status.KSASigningKey.StartedAt
	i := slices.IndexFunc(w.keySecrets(blue), func(s corev1.Secret) bool { return s.Name == "blue-ksa-signing-key-1" })
	lost := w.keySecrets(blue)[i]
	if err := w.controller.Delete(t.Context(), lost.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	w.losing = true
	uc := w.round(blue)
	rotated, ready := condition(uc, v1alpha1.ConditionKSASigningKeyRotation), condition(uc, v1alpha1.ConditionReady)
	if rotated.Status != metav1.ConditionFalse || ready.Reason != v1alpha1.ReasonRotationBlocked ||
		!strings.Contains(ready.Message, "key version 1 is missing from the store") {
		t.Errorf("rotation %s; ready %s: %s", rotated.Status, ready.Reason, ready.Message)
	}
	if k := uc.Status.KSASigningKey; k.CompletedAt != nil || !k.StartedAt.Equal(started) {
		t.Errorf("started %v, completed %v, want %v and nothing", k.StartedAt, k.CompletedAt, started)
	}
	w.losing = false
	lost.ObjectMeta = metav1.ObjectMeta{Name: lost.Name, Namespace: lost.Namespace, Labels: lost.Labels}
	if err := w.controller.Create(t.Context(), &lost); err != nil {
		t.Fatal(err)
	}
	k := w.until(blue, isSettled).Status.KSASigningKey
	if k.CompletedAt == nil || !k.StartedAt.Equal(started) {
		t.Errorf("started %v, completed %v, want %v and a time", k.StartedAt, k.CompletedAt, started)
	}
	w.wantOnly(blue, 2)
	completed := func(e string) bool { return strings.Contains(e, v1alpha1.ReasonRotationCompleted) }
	if told := w.events(blue); slices.IndexFunc(told, completed) != len(told)-1 {
		t.Errorf("the completion is not told once, at the end:\n%s", strings.Join(told, "\n"))
	}
}
