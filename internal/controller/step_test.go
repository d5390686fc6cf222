package controller

import (
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
)

func TestFurthest(t *testing.T) {
	for _, test := range []struct{ was, planned, want rotation.Step }{
		{"", rotation.StepGenerate, rotation.StepGenerate},
		{rotation.StepGenerate, rotation.StepPublish, rotation.StepPublish},
		{rotation.StepSwitch, rotation.StepPublish, rotation.StepSwitch},
		{rotation.StepRetire, rotation.StepRefresh, rotation.StepRetire},
		{rotation.StepSwitch, rotation.StepSwitch, rotation.StepSwitch},
		{rotation.StepRetire, "", ""},
		{rotation.StepRetire, rotation.StepGenerate, rotation.StepGenerate}, // of the next rotation
		{"", rotation.StepRefresh, rotation.StepRefresh},
	} {
		if got := furthest(test.was, test.planned); got != test.want {
			t.Errorf("after %q a plan of %q counts as %q, want %q", test.was, test.planned, got, test.want)
		}
	}
}
