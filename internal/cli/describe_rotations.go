package cli

import (
	"fmt"
	"io"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// describeRotations shows the timelines of the latest rotations, the newest first, or nothing if there was none.
func (a *app) describeRotations(w io.Writer, uc *v1alpha1.UserCluster) error {
	all := uc.Status.KSASigningKey.Rotations
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Rotations:")
	rows := [][]string{{"TO", "STEP", "STARTED", "TOOK", "WAITED FOR"}}
	for _, rotation := range slices.Backward(all) {
		for j, s := range rotation.Steps {
			version := ""
			if j == 0 {
				version = fmt.Sprint(rotation.Version)
			}
			row := []string{version, s.Name, s.StartedAt.UTC().Format(time.RFC3339), a.took(s.StartedAt, s.CompletedAt)}
			rows = append(rows, append(row, a.longestWait(s)))
		}
	}
	return table(w, "  ", rows...)
}

// took returns the time between two moments, or until now.
func (a *app) took(from metav1.Time, to *metav1.Time) string {
	end := a.Now()
	if to != nil {
		end = to.Time
	}
	return duration.HumanDuration(end.Sub(from.Time))
}

// longestWait returns the current wait of a step, or else its longest one.
func (a *app) longestWait(s v1alpha1.RotationStep) string {
	text, longest := "-", time.Duration(-1)
	for _, w := range s.Waits {
		if w.CompletedAt == nil {
			return fmt.Sprintf("%s (for %s)", w.For, a.took(w.StartedAt, nil))
		}
		if lasted := w.CompletedAt.Sub(w.StartedAt.Time); lasted > longest {
			text, longest = fmt.Sprintf("%s (%s)", w.For, duration.HumanDuration(lasted)), lasted
		}
	}
	return text
}
