package rotation

import (
	"slices"
	"testing"
)

// TestRemoval removes a cluster from every state that it can be left in, and holds each write to what must be gone before.
func TestRemoval(t *testing.T) {
	for bits := range 32 {
		left := Removal{Machines: bits&1 != 0, ControlPlane: bits&2 != 0, Publications: bits&4 != 0, Secrets: bits&8 != 0}
		if bits&16 != 0 {
			left.Stored = []int{2, 3}
		}
		for steps := 0; ; steps++ {
			kind, version := PlanRemoval(left)
			switch kind {
			case RemoveMachines:
				left.Machines = false
			case RemoveControlPlane:
				if left.Machines {
					t.Fatalf("%+v: the control plane goes before the machines", left)
				}
				left.ControlPlane = false
			case RemovePublications:
				left.Publications = false
			case RemoveKey:
				i := slices.Index(left.Stored, version)
				if i < 0 || left.Machines || left.ControlPlane || left.Publications {
					t.Fatalf("%+v: key version %d goes while somebody may use it", left, version)
				}
				left.Stored = slices.Delete(left.Stored, i, i+1)
			case RemoveSecrets:
				if left.Publications {
					t.Fatalf("%+v: credentials go while they are needed", left)
				}
				left.Secrets = false
			case RemoveFinalizer:
				if left.Machines || left.ControlPlane || left.Publications || left.Secrets || len(left.Stored) > 0 {
					t.Fatalf("%+v: it is let go", left)
				}
			}
			if kind == RemoveFinalizer {
				break
			}
			if steps > 10 {
				t.Fatalf("%+v: it never ends", left)
			}
		}
	}
}
