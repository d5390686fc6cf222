package rotation

// Removal is what may be left of a cluster that is being deleted: everything that is not known to be gone.
type Removal struct {
	Machines, ControlPlane bool
	// Publications are the keys that were published to verifiers outside the cluster.
	Publications bool
	// Keys are the key versions in the store.
	Keys bool
	// Secrets are the other Secrets of the cluster: its kubeconfig, and the credentials of its fleet.
	Secrets bool
}

// RemovalKind is the kind of a write that removes a part of a cluster.
type RemovalKind string

// The kinds of writes that remove a cluster, in order. Each is idempotent.
const (
	RemoveMachines     RemovalKind = "RemoveMachines"
	RemoveControlPlane RemovalKind = "RemoveControlPlane"
	RemovePublications RemovalKind = "RemovePublications"
	RemoveKeys         RemovalKind = "RemoveKeys"
	RemoveSecrets      RemovalKind = "RemoveSecrets"
	// RemoveFinalizer releases the UserCluster, of which nothing is left.
	RemoveFinalizer RemovalKind = "RemoveFinalizer"
)

// PlanRemoval decides what to remove next. It removes what depends on other parts first: machines before the control
// plane, everything that accepts or signs with a key before the key, and last the credentials that the removal needs.
// After a crash anywhere, the next plan finds what is left.
func PlanRemoval(left Removal) RemovalKind {
	switch {
	case left.Machines:
		return RemoveMachines
	case left.ControlPlane:
		return RemoveControlPlane
	case left.Publications:
		return RemovePublications
	case left.Keys:
		return RemoveKeys
	case left.Secrets:
		return RemoveSecrets
	}
	return RemoveFinalizer
}

// Without returns what is left after a write has removed everything of its kind.
func (r Removal) Without(kind RemovalKind) Removal {
	switch kind {
	case RemoveMachines:
		r.Machines = false
	case RemoveControlPlane:
		r.ControlPlane = false
	case RemovePublications:
		r.Publications = false
	case RemoveKeys:
		r.Keys = false
	case RemoveSecrets:
		r.Secrets = false
	}
	return r
}
