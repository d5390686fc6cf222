package rotation

// Removal is what may be left of a cluster that is being deleted. What is not known to be gone is left.
type Removal struct {
	// Machines, ControlPlane and Publications mean that something of them may be left.
	Machines, ControlPlane, Publications bool
	// Stored are the key versions in the store, ascending.
	Stored []int
	// Secrets means that other Secrets of the cluster may be left: its kubeconfig, the credentials of its fleet.
	Secrets bool
}

// RemovalKind is the kind of a write that removes something of a cluster.
type RemovalKind string

// The kinds of writes that remove a cluster, in their order. Each is idempotent.
const (
	RemoveMachines     RemovalKind = "RemoveMachines"
	RemoveControlPlane RemovalKind = "RemoveControlPlane"
	RemovePublications RemovalKind = "RemovePublications"
	RemoveKey          RemovalKind = "RemoveKey"
	RemoveSecrets      RemovalKind = "RemoveSecrets"
	// RemoveFinalizer lets go of the UserCluster: nothing is left.
	RemoveFinalizer RemovalKind = "RemoveFinalizer"
)

// PlanRemoval decides what to remove next, and for RemoveKey of which version. A cluster goes from the outside in:
// machines before the control plane that drains them, whoever accepts or signs with a key before the key, and what the
// removal needs (Secrets with credentials) at the end. If we crash anywhere, what is left is found again.
func PlanRemoval(r Removal) (kind RemovalKind, version int) {
	switch {
	case r.Machines:
		return RemoveMachines, 0
	case r.ControlPlane:
		return RemoveControlPlane, 0
	case r.Publications:
		return RemovePublications, 0
	case len(r.Stored) > 0:
		return RemoveKey, r.Stored[0]
	case r.Secrets:
		return RemoveSecrets, 0
	}
	return RemoveFinalizer, 0
}
