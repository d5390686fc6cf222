// Package nodes replaces the nodes of a user cluster.
//
// Adapter is the port to whatever owns node pools. Rollout is the common way to bring pools to their
// wanted size and key version over plain Machines: a new node first, then drain, then delete.
package nodes

import (
	"context"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Node is one machine of a node pool and its Node object.
type Node struct {
	Name, Pool string
	// KeyVersion is the key version that API servers signed with when the machine was made.
	KeyVersion int
	// Ready says that the Node object is there and ready.
	Ready bool
	// Deleting says that it is on its way out: cordoned, drained or removed.
	Deleting bool
}

// State is the nodes of a cluster as observed.
type State struct {
	Nodes []Node
	// Waiting says in words what stands in the way, naming the object (a PodDisruptionBudget, a pod that will
	// not end, a machine that is not ready); empty when nothing does.
	Waiting string
	// Blocked says that somebody must do something before Waiting can end.
	Blocked bool
}

// Adapter owns the node pools of user clusters. Converge is asynchronous and idempotent: each call does what
// can be done now, returns within about a second, and is repeated until Observe shows the result. Calls for
// one cluster do not overlap.
type Adapter interface {
	// Observe looks at the nodes and changes nothing.
	Observe(ctx context.Context, uc *v1alpha1.UserCluster) (State, error)
	// Converge brings the pools of the spec nearer to their wanted sizes, all nodes being of keyVersion or later.
	Converge(ctx context.Context, uc *v1alpha1.UserCluster, keyVersion int) error
	// Delete removes all that Converge made. It reports true when nothing is left.
	Delete(ctx context.Context, uc *v1alpha1.UserCluster) (gone bool, err error)
}

// Machine is a computer that runs, or is to run, a kubelet. Its Node object has the same name.
type Machine struct {
	Name, Pool string
	// KeyVersion is remembered with the machine for as long as it exists.
	KeyVersion int
	// Running says that it is up, whatever its kubelet says.
	Running bool
}

// Machines makes and removes the machines of one cluster. All calls are idempotent and return soon.
type Machines interface {
	// List returns the machines that exist, whether or not they run, half-made ones included.
	List(ctx context.Context) ([]Machine, error)
	// Ensure makes a machine that does not exist and starts one that does not run. The pool gives labels and taints.
	Ensure(ctx context.Context, m Machine, pool v1alpha1.NodePool) error
	// Remove ends a machine and deletes its disk. It reports true when nothing is left.
	Remove(ctx context.Context, name string) (gone bool, err error)
}
