package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// A moment is what a status shows at some second.
type moment struct {
	at         int
	step, wait string
	blocked    bool
}

// timeLineOf returns, as text, what is kept of a rotation to version 2 when these moments were seen.
func timeLineOf(all ...moment) string {
	uc := &v1alpha1.UserCluster{}
	observeMoments(uc, 2, 0, all...)
	return timeLineText(uc)
}

// observeMoments has the status of a cluster show moments of a rotation that started at some second.
func observeMoments(uc *v1alpha1.UserCluster, version int32, started int, all ...moment) {
	uc.Spec.KSASigningKey.Version = version
	k := &uc.Status.KSASigningKey
	for _, m := range all {
		begun, now := at(started), at(m.at)
		k.Step, k.WaitingFor, k.StartedAt, k.CompletedAt = m.step, m.wait, &begun, nil
		uc.Status.Conditions = nil
		if m.blocked {
			uc.Status.Conditions = []metav1.Condition{{Reason: v1alpha1.ReasonRotationBlocked}}
		}
		if m.step == "" {
			k.CompletedAt = &now
		}
		keepTimeLine(uc, now)
	}
}

func at(second int) metav1.Time { return metav1.Unix(int64(second), 0) }

func timeLineText(uc *v1alpha1.UserCluster) string {
	span := func(from metav1.Time, to *metav1.Time) string {
		if to == nil {
			return fmt.Sprintf("%d-", from.Unix())
		}
		return fmt.Sprintf("%d-%d", from.Unix(), to.Unix())
	}
	var text strings.Builder
	for _, r := range uc.Status.KSASigningKey.Rotations {
		fmt.Fprintf(&text, "%d: %s\n", r.Version, span(r.StartedAt, r.CompletedAt))
		for _, s := range r.Steps {
			fmt.Fprintf(&text, "  %s %s\n", s.Name, span(s.StartedAt, s.CompletedAt))
			for _, w := range s.Waits {
				blocked := ""
				if w.Blocked {
					blocked = " blocked"
				}
				fmt.Fprintf(&text, "    %s %s%s\n", span(w.StartedAt, w.CompletedAt), w.For, blocked)
			}
		}
	}
	return text.String()
}

func TestTimeLine(t *testing.T) {
	for _, test := range []struct {
		name string
		all  []moment
		want string
	}{
		{"steps one after the other", []moment{
			{0, "Generate", "", false}, {1, "Publish", "a", false}, {4, "Switch", "", false}, {9, "", "", false}, {20, "", "",
				false},
		}, "2: 0-9\n  Generate 0-1\n  Publish 1-4\n    1-4 a\n  Switch 4-9\n"},
		{"no rotation", []moment{{3, "", "a node to be ready", false}}, ""},
		{"the same wait, seen again and again", []moment{
			{0, "Publish", "a", false}, {1, "Publish", "a", false}, {5, "Publish", "a", false}, {6, "Publish", "b", false},
		}, "2: 0-\n  Publish 0-\n    0-6 a\n    6- b\n"},
		{"nothing to wait for", []moment{{0, "Publish", "a", false}, {2, "Publish", "", false}, {5, "Publish", "", false}},
			"2: 0-\n  Publish 0-\n    0-2 a\n"},
		{"the shortest waits are forgotten, the last one never", []moment{
			{0, "Refresh", "a", false}, {5, "Refresh", "b", false}, {6, "Refresh", "c", false}, {9, "Refresh", "d", false},
			{11, "Refresh", "e", false}, {11, "Refresh", "f", false},
		}, "2: 0-\n  Refresh 0-\n    0-5 a\n    6-9 c\n    9-11 d\n    11- f\n"},
		{"blocked by what it waited for before", []moment{
			{0, "Refresh", "a", false}, {2, "Refresh", "a", true}, {60, "Refresh", "b", false},
		}, "2: 0-\n  Refresh 0-\n    0-2 a\n    2-60 a blocked\n    60- b\n"},
		{"a step begins again", []moment{
			{0, "Switch", "a", false}, {2, "Refresh", "b", false}, {5, "Switch", "c", false}, {7, "Refresh", "d", false},
		}, "2: 0-\n  Switch 0-7\n    0-2 a\n    5-7 c\n  Refresh 2-\n    2-5 b\n    7- d\n"},
		{"a long text", []moment{{0, "Switch", strings.Repeat("x", 300), false}},
			"2: 0-\n  Switch 0-\n    0- " + strings.Repeat("x", 200) + "…\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, timeLineOf(test.all...)); diff != "" {
				t.Errorf("time line (-want +got):\n%s", diff)
			}
		})
	}
}

// The latest rotations are kept. One that another replaced never completed.
func TestTimeLineOfSeveral(t *testing.T) {
	uc := &v1alpha1.UserCluster{}
	for i := range 6 {
		start := 100 * i
		observeMoments(uc, int32(i+2), start, moment{start, "Generate", "", false}, moment{start + 9, "", "", false})
	}
	observeMoments(uc, 8, 600, moment{600, "Generate", "", false}, moment{601, "Publish", "a", false})
	observeMoments(uc, 9, 700, moment{700, "Generate", "", false})
	want := "5: 300-309\n  Generate 300-309\n6: 400-409\n  Generate 400-409\n7: 500-509\n  Generate 500-509\n" +
		"8: 600-\n  Generate 600-601\n  Publish 601-700\n    601-700 a\n9: 700-\n  Generate 700-\n"
	if diff := cmp.Diff(want, timeLineText(uc)); diff != "" {
		t.Errorf("time lines (-want +got):\n%s", diff)
	}
}

// The API server keeps whole seconds: what a round wrote is the same rotation when the next round reads it.
func TestTimeLineOfReadStatus(t *testing.T) {
	uc := &v1alpha1.UserCluster{}
	started := metav1.NewTime(time.Unix(10, 700_000_000))
	uc.Status.KSASigningKey.StartedAt, uc.Status.KSASigningKey.Step = &started, "Generate"
	keepTimeLine(uc, started)
	k := &uc.Status.KSASigningKey
	read := started.Rfc3339Copy()
	k.StartedAt, k.Rotations[0].StartedAt = &read, read
	keepTimeLine(uc, at(12))
	if n := len(k.Rotations); n != 1 {
		t.Errorf("%d rotations are kept, want 1", n)
	}
}
