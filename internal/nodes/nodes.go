// Package nodes replaces the nodes of a user cluster, or the tokens of the pods that run on them.
//
// Adapter is the port to whatever owns node pools. Rollout is the common way to bring pools to their
// wanted size and key version over plain Machines: a new node first, then drain, then delete. A cluster whose nodes are
// to stay in a rotation (v1alpha1.NodeRefresh) keeps them: then what is proven, from the files that the pods read, is
// that no pod has a token of an older key version any more.
package nodes

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Node is one machine of a node pool and its Node object.
type Node struct {
	Name, Pool string
	// KeyVersion is the key version that API servers signed with when the machine was made, or a later one, since
	// when no pod on it has a token of an older one.
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
	// Converge brings the pools of the spec nearer to their wanted sizes, all nodes being of keyVersion or later. It is
	// only called when every API server signs with keyVersion.
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
	// Refresh is the latest one that was begun on it.
	Refresh Refresh
}

// Refresh is one replacement of the tokens of all pods on a machine that stays. All but Kubelet is remembered with the
// machine; it is zero for a machine on which none was ever begun.
type Refresh struct {
	// KeyVersion is that of the tokens that the pods are to have.
	KeyVersion int
	// Since is when it was begun. Whatever token was issued later is of KeyVersion.
	Since time.Time
	// Kubelet is since when the kubelet runs that was started after Since; zero while there is none, and once
	// the machine is of KeyVersion.
	Kubelet time.Time
	// Proven is when the last of the files that had an older token got a new one; zero until all have.
	Proven time.Time
}

// Machines makes and removes the machines of one cluster. All calls are idempotent and return soon.
type Machines interface {
	Refresher
	// List returns the machines that exist, whether or not they run, half-made ones included.
	List(ctx context.Context) ([]Machine, error)
	// Ensure makes a machine that does not exist and starts one that does not run. The pool gives labels and taints.
	Ensure(ctx context.Context, m Machine, pool v1alpha1.NodePool) error
	// Remove ends a machine and deletes its disk. It reports true when nothing is left.
	Remove(ctx context.Context, name string) (gone bool, err error)
}

// Refresher replaces tokens on machines that stay. All calls are idempotent and return soon.
type Refresher interface {
	// Remember keeps KeyVersion, Refresh.KeyVersion, Since and Proven of a machine that exists. When it returns nil they
	// outlive a power cut. Versions never go down, and Since stays while Refresh.KeyVersion does.
	Remember(ctx context.Context, m Machine) error
	// RestartKubelet ends the kubelet of a machine if it was started before the Refresh that is remembered, and has the
	// machine start another. No container ends by that. It does nothing while no kubelet runs.
	RestartKubelet(ctx context.Context, name string) error
	// Tokens reads token files on a machine that runs, as the pods see them now, and returns as many tokens in the same order.
	// A file that cannot be read is no error, but a Token that says so.
	Tokens(ctx context.Context, name string, files []TokenFile) ([]Token, error)
}

// TokenFile is where a pod has a projected service account token.
type TokenFile struct {
	Pod types.UID
	// Volume is the name of the volume in the pod's spec, and Path that of the file in the volume.
	Volume, Path string
}

// Token is what a token file says, all but the token itself.
type Token struct {
	// KeyID is the kid of the token's header.
	KeyID string
	// IssuedAt and RenewBy are when it was issued and when its life ends for the kubelet, which the API server may let
	// it outlive: its claims iat, and kubernetes.io.warnafter or else exp.
	IssuedAt, RenewBy time.Time
	// Replaced is when the file got its content, by the clock of the machine.
	Replaced time.Time
	// Missing says that there is no such file. All but Problem is zero then.
	Missing bool
	// Problem says why there is no token to tell of; never what the file holds.
	Problem string
}
