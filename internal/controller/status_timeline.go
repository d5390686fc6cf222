package controller

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/printable"
)

// The limits of timelines in a status: rotations, and finished waits of each step. maxWaitText is the longest text of a
// wait, in characters.
const (
	maxRotations = 5
	maxWaits     = 3
	maxWaitText  = 200
)

// keepTimeLine adds the current state of the status to the timeline of its rotation. It changes nothing unless the
// step, or what it waits for, has changed.
func keepTimeLine(uc *v1alpha1.UserCluster, now metav1.Time) {
	k := &uc.Status.KSASigningKey
	if k.Step != "" && k.StartedAt != nil && !isLatest(k.Rotations, k.StartedAt) {
		endSteps(k.Rotations, "", now)
		k.Rotations = append(k.Rotations, v1alpha1.RotationStatus{
			Version: uc.Spec.KSASigningKey.Version, StartedAt: *k.StartedAt,
		})
		k.Rotations = k.Rotations[max(0, len(k.Rotations)-maxRotations):]
	}
	if len(k.Rotations) == 0 {
		return
	}
	latest := &k.Rotations[len(k.Rotations)-1]
	endSteps(k.Rotations, k.Step, now)
	if k.Step == "" {
		if latest.CompletedAt == nil && k.StartedAt.Equal(&latest.StartedAt) {
			latest.CompletedAt = k.CompletedAt
		}
		return
	}
	text := printable.Text(k.WaitingFor, maxWaitText)
	waitFor(stepOf(latest, k.Step, now), v1alpha1.RotationWait{For: text, StartedAt: now, Blocked: isBlocked(uc)})
}

// isLatest reports whether the latest of the rotations is the one that started then.
func isLatest(all []v1alpha1.RotationStatus, started *metav1.Time) bool {
	return len(all) > 0 && all[len(all)-1].StartedAt.Equal(started)
}

// endSteps ends every step of the latest rotation except one.
func endSteps(all []v1alpha1.RotationStatus, but string, now metav1.Time) {
	if len(all) == 0 {
		return
	}
	latest := &all[len(all)-1]
	for i := range latest.Steps {
		if s := &latest.Steps[i]; s.Name != but && s.CompletedAt == nil {
			s.CompletedAt = &now
			endWait(s, now)
		}
	}
}

// stepOf returns a running step of a rotation.
func stepOf(r *v1alpha1.RotationStatus, name string, now metav1.Time) *v1alpha1.RotationStep {
	i := slices.IndexFunc(r.Steps, func(s v1alpha1.RotationStep) bool { return s.Name == name })
	if i < 0 {
		i = len(r.Steps)
		r.Steps = append(r.Steps, v1alpha1.RotationStep{Name: name, StartedAt: now})
	}
	r.Steps[i].CompletedAt = nil
	return &r.Steps[i]
}

// waitFor records what a step waits for now, unless that has not changed.
func waitFor(s *v1alpha1.RotationStep, w v1alpha1.RotationWait) {
	if n := len(s.Waits); n > 0 {
		last := s.Waits[n-1]
		if last.CompletedAt == nil && last.For == w.For && last.Blocked == w.Blocked {
			return
		}
	}
	endWait(s, w.StartedAt)
	if w.For != "" {
		s.Waits = append(s.Waits, w)
	}
}

// endWait ends the current wait of a step, and drops the shortest waits beyond maxWaits.
func endWait(s *v1alpha1.RotationStep, now metav1.Time) {
	if n := len(s.Waits); n > 0 && s.Waits[n-1].CompletedAt == nil {
		s.Waits[n-1].CompletedAt = &now
	}
	for len(s.Waits) > maxWaits {
		shortest := 0
		for i := range s.Waits {
			if lasted(s.Waits[i]) < lasted(s.Waits[shortest]) {
				shortest = i
			}
		}
		s.Waits = slices.Delete(s.Waits, shortest, shortest+1)
	}
}

// lasted returns how long a finished wait lasted.
func lasted(w v1alpha1.RotationWait) time.Duration { return w.CompletedAt.Sub(w.StartedAt.Time) }

// isBlocked reports whether somebody must act.
func isBlocked(uc *v1alpha1.UserCluster) bool {
	return slices.ContainsFunc(uc.Status.Conditions, func(c metav1.Condition) bool {
		return c.Reason == v1alpha1.ReasonRotationBlocked
	})
}
