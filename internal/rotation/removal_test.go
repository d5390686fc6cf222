package rotation

import "testing"

// TestRemoval removes a cluster from every state that it can be left in, and holds each write to what must be gone
// before.
func TestRemoval(t *testing.T) {
	for bits := range 32 {
		left := Removal{
			Machines: bits&1 != 0, ControlPlane: bits&2 != 0, Publications: bits&4 != 0, Keys: bits&8 != 0,
			Secrets: bits&16 != 0,
		}
		for kind := PlanRemoval(left); kind != RemoveFinalizer; kind = PlanRemoval(left) {
			inUse := left.Machines || left.ControlPlane
			switch {
			case kind == RemoveControlPlane && left.Machines:
				t.Fatalf("%+v: the control plane goes before the machines", left)
			case kind == RemoveKeys && (inUse || left.Publications):
				t.Fatalf("%+v: the keys go while somebody may use them", left)
			case kind == RemoveSecrets && (inUse || left.Publications || left.Keys):
				t.Fatalf("%+v: credentials go while they may be needed", left)
			}
			if left.Without(kind) == left {
				t.Fatalf("%+v: %s removes nothing", left, kind)
			}
			left = left.Without(kind)
		}
		if all := (Removal{true, true, true, true, true}); all.Without(RemoveFinalizer) != all {
			t.Fatal("letting go removes something")
		}
		if left != (Removal{}) {
			t.Fatalf("%+v: it is let go", left)
		}
	}
}
