package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/dashboard"
)

// The page sorts clusters by how much they need a person.
func TestRowOf(t *testing.T) {
	for _, test := range []struct {
		name, reason, step string
		ready              metav1.ConditionStatus
		deleted            bool
		phase              dashboard.Phase
		state, waits       string
	}{
		{"ready", v1alpha1.ReasonReady, "", metav1.ConditionTrue, false, dashboard.PhaseReady, "Ready", ""},
		{"rotating", v1alpha1.ReasonRotating, "Switch", metav1.ConditionFalse, false, dashboard.PhaseRotating, "Switch",
			"a server"},
		{"blocked", v1alpha1.ReasonRotationBlocked, "Switch", metav1.ConditionFalse, false, dashboard.PhaseBlocked,
			"Blocked", "a server"},
		{"being made", v1alpha1.ReasonCreateOrUpdate, "", metav1.ConditionFalse, false, dashboard.PhasePending, "Not ready",
			"message"},
		{"being deleted", v1alpha1.ReasonCreateOrUpdate, "", metav1.ConditionFalse, true, dashboard.PhasePending, "Deleting",
			"message"},
		{"never observed", "", "", "", false, dashboard.PhasePending, "Not ready", "waiting for the controller"},
	} {
		t.Run(test.name, func(t *testing.T) {
			uc := &v1alpha1.UserCluster{}
			uc.Status.KSASigningKey.Step, uc.Status.KSASigningKey.WaitingFor = test.step, "a server"
			if test.ready != "" {
				uc.Status.Conditions = []metav1.Condition{{
					Type: v1alpha1.ConditionReady, Status: test.ready, Reason: test.reason, Message: "message",
				}}
			}
			if test.deleted {
				now := metav1.Now()
				uc.DeletionTimestamp = &now
			}
			row := rowOf(uc)
			if row.Phase != test.phase || row.State != test.state || row.WaitingFor != test.waits {
				t.Errorf("the row is %s, %s, waiting for %q", row.Phase, row.State, row.WaitingFor)
			}
		})
	}
}

// The time lines of rotations, the newest first, with the longest wait of each step or the one that lasts.
func TestDescribeRotations(t *testing.T) {
	a, _, _ := testEnv()
	at := func(ago time.Duration) metav1.Time { return metav1.NewTime(a.Now().Add(-ago)) }
	past := func(ago time.Duration) *metav1.Time { t := at(ago); return &t }
	uc := &v1alpha1.UserCluster{}
	uc.Status.KSASigningKey.Rotations = []v1alpha1.RotationStatus{
		{Version: 2, StartedAt: at(time.Hour), Steps: []v1alpha1.RotationStep{
			{Name: "Generate", StartedAt: at(time.Hour), CompletedAt: past(time.Hour)},
			{Name: "Publish", StartedAt: at(time.Hour), CompletedAt: past(59 * time.Minute), Waits: []v1alpha1.RotationWait{
				{For: "one", StartedAt: at(time.Hour), CompletedAt: past(time.Hour - 5*time.Second)},
				{For: "two", StartedAt: at(time.Hour - 5*time.Second), CompletedAt: past(59 * time.Minute)},
			}},
		}},
		{Version: 3, StartedAt: at(time.Minute), Steps: []v1alpha1.RotationStep{
			{Name: "Publish", StartedAt: at(time.Minute),
				Waits: []v1alpha1.RotationWait{{For: "three", StartedAt: at(30 * time.Second)}}},
		}},
	}
	var out bytes.Buffer
	if err := a.describeRotations(&out, uc); err != nil {
		t.Fatal(err)
	}
	want := `Rotations:
  TO   STEP       STARTED                TOOK   WAITED FOR
  3    Publish    2025-12-31T23:59:00Z   60s    three (for 30s)
  2    Generate   2025-12-31T23:00:00Z   0s     -
       Publish    2025-12-31T23:00:00Z   60s    two (55s)
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("rotations (-want +got):\n%s", diff)
	}
}
