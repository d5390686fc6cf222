package rotation

// Removal is what may be left of a cluster that is being deleted: all that is not known to be gone.
type Removal struct {
	Machines, ControlPlane bool
	// Publications are what verifiers outside the cluster were given.
	Publications bool
	// Keys are the key versions in the store.
	Keys bool
	// Secrets are the others of the cluster: its kubeconfig, and the credentials of its fleet.
	Secrets bool
}

// RemovalKind is the kind of a write that removes something of a cluster.
type RemovalKind string

// The kinds of writes that remove a cluster, in their order. Each is idempotent.
const (
	RemoveMachines     RemovalKind = "RemoveMachines"
	RemoveControlPlane RemovalKind = "RemoveControlPlane"
	RemovePublications RemovalKind = "RemovePublications"
	RemoveKeys         RemovalKind = "RemoveKeys"
	RemoveSecrets      RemovalKind = "RemoveSecrets"
	// RemoveFinalizer lets go of the UserCluster: nothing is left.
	RemoveFinalizer RemovalKind = "RemoveFinalizer"
)

// PlanRemoval decides what to remove next. A cluster goes from the outside in: machines before the control plane that
// they need, whoever accepts or signs with a key before the key, and the credentials that the removal needs at the end.
// If we crash anywhere, what is left is found again.
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

// Without returns what is left once a write has removed all of its kind.
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
