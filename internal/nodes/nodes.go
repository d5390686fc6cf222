// Package nodes is the interface to the nodes of a user cluster, and to the machines that they run on.
//
// A rotation must leave no pod with a token of the old key: either the pod's node is replaced, or its token is. The
// controller sees only Adapter. Package rollout implements it with two smaller interfaces and the API of the cluster.
// Each of these has a package that plans without side effects and carries out its plans:
//
//   - Machines are made, drained and removed: package pools;
//   - a Refresher replaces the tokens that pods hold on machines that stay: package tokens;
//   - the API shows how old pods are, and evicts them: package evict.
//
// If something else makes the nodes, a Roller makes it replace them. Package nodestest has the conformance suites of
// the other three interfaces.
package nodes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// Adapter manages the nodes of one cluster. Converge is asynchronous and idempotent: each call does what can be done
// now, returns within about a second, and is repeated until Observe shows the result. Calls for one cluster do not
// overlap.
type Adapter interface {
	// Observe changes nothing. It fails if it cannot see everything, since nodes that are not in State count as
	// deleted.
	Observe(ctx context.Context, keys Keys) (State, error)
	// Converge moves every pool towards its size, with nodes of keys.Next or later only. It is called only while every
	// API server signs with keys.Next. A call with an older version than before undoes nothing: the KeyVersion of a
	// node never decreases.
	Converge(ctx context.Context, keys Keys) error
	// Delete removes everything that Converge made. It returns true when nothing is left. It needs no API server.
	Delete(ctx context.Context) (gone bool, err error)
}

// Keys are the key versions of a cluster that matter to its nodes.
type Keys struct {
	// Next is the newest stored version, and KeyID its kid.
	Next  int
	KeyID string
	// Old is the version that a rotation to Next will retire. It is 0 while no rotation runs; API servers then accept
	// no token older than Next.
	Old int
	// ProvenAt is when API servers issued the tokens with which all of them proved in this round that they sign with
	// Next: the latest iat, each by the clock of its server. It is zero until all have.
	ProvenAt time.Time
	// Named means that the status names pods that keep an old token, so State.Holders matters while no rotation runs.
	Named bool
}

// State is the observed state of the nodes of a cluster.
type State struct {
	Nodes []Node
	// Converged reports whether each pool has exactly its replicas, all of them ready and none being removed, and
	// nothing is left of other pools or of removed machines. Nodes that Keyturn did not make do not matter.
	Converged bool
	// Oldest is the lowest KeyVersion of all nodes, at least 1; 0 without nodes.
	Oldest int
	// Waiting names what prevents progress; empty if nothing does. It continues the words "waiting for", so each reason
	// reads "X to do Y" ("node a to be ready"). Advice for a person follows after a comma, a colon or in parentheses;
	// reasons are joined by semicolons.
	Waiting string
	// Blocked means that somebody must act before Waiting can end.
	Blocked bool
	// Holders are running pods that keep a token of an older key until they, or some of their containers, start again. No
	// rotation waits for them, since the user was warned before. They are valid if HoldersKnown is set.
	Holders      []Holder
	HoldersKnown bool
}

// Holder is a pod that keeps old tokens.
type Holder struct {
	Namespace, Pod string
	Tokens         []podtokens.Token
}

// Node is one node of a cluster.
type Node struct {
	// Pool is empty for a node that Keyturn did not make.
	Name, Pool string
	// KeyVersion is a lower bound: no token of a pod on the node is older, except those of State.Holders. For a machine
	// it is the version in use when the machine was made, raised when the tokens of its pods were replaced.
	KeyVersion int
	// Ready means that its Node object exists and pods can run there.
	Ready bool
	// Deleting means that it is being removed: cordoned, drained or deleted.
	Deleting bool
}

// Oldest returns the lowest KeyVersion of some nodes; 0 without nodes. A node of unknown version may be of any age, so
// it counts as version 1.
func Oldest(all []Node) int {
	oldest := 0
	for _, n := range all {
		if version := max(n.KeyVersion, 1); oldest == 0 || version < oldest {
			oldest = version
		}
	}
	return oldest
}

// Machines makes and removes the machines of one cluster. All calls are idempotent and return quickly.
type Machines interface {
	// List returns the machines that exist, running or not, including half-made ones. It fails if it cannot see all of
	// them, since a machine that is not listed counts as deleted.
	List(ctx context.Context) ([]Machine, error)
	// Ensure makes a machine that does not exist, with its name, pool and key version, and starts one that does not
	// run. An existing machine keeps its pool and key version. The pool provides labels and taints.
	Ensure(ctx context.Context, m Machine, pool v1alpha1.NodePool) error
	// Remove stops a machine and deletes its disk. It returns true when nothing is left, also for a machine that never
	// existed. Until then, it must be called again.
	Remove(ctx context.Context, name string) (gone bool, err error)
}

// Machine is a computer that runs, or will run, a kubelet. Its Node object has the same name.
type Machine struct {
	Name, Pool string
	// KeyVersion is stored with the machine as long as it exists.
	KeyVersion int
	// Running means that it is up, in any state of its kubelet.
	Running bool
	// Refresh is the latest refresh that began on it.
	Refresh Refresh
}

// Refreshing reports whether the tokens on the machine are being replaced.
func (m Machine) Refreshing() bool { return m.Refresh.KeyVersion > m.KeyVersion }

// Refresh is one replacement of the tokens of all pods on a machine that stays. Everything but Kubelet is stored with
// the machine. It is zero if none ever began.
type Refresh struct {
	// KeyVersion is the version of the tokens that the pods should have.
	KeyVersion int
	// Since is when it began. Every token that was issued later is of KeyVersion.
	Since time.Time
	// Kubelet is when the current kubelet was started. It is zero while the kubelet is older than Since, while none
	// runs, and once the machine is of KeyVersion.
	Kubelet time.Time
	// Proven is when all files were first seen without an older token; zero until they were.
	Proven time.Time
}

// Refresher replaces tokens on machines that stay. All calls are idempotent and return quickly.
type Refresher interface {
	// Remember stores KeyVersion, Refresh.KeyVersion, Since and Proven of a machine. When it returns nil, they survive
	// a power cut. Versions never decrease: an older one is refused without any change, and so is a machine that does
	// not exist. Since does not change as long as Refresh.KeyVersion does not.
	Remember(ctx context.Context, m Machine) error
	// RestartKubelet restarts the kubelet of a machine if it was started before the stored Refresh. This stops no
	// container. It does nothing while no kubelet runs.
	RestartKubelet(ctx context.Context, name string) error
	// Tokens reads token files on a running machine, as the pods see them now, and returns as many tokens in the same
	// order. A file that cannot be read yields a Token with a Problem. A machine that cannot be read yields an error.
	Tokens(ctx context.Context, name string, files []TokenFile) ([]Token, error)
}

// Roller has the nodes of a cluster replaced by what made them. All calls are idempotent and return quickly.
type Roller interface {
	// Keeps reports whether Roll does not replace a node. Pods on it are evicted instead.
	Keeps(node *corev1.Node) bool
	// Roll requests the replacement of each node that is older than since, unless that was requested before.
	Roll(ctx context.Context, since time.Time) error
	// Reasons are what the replacement waits for, as far as is known. It is called while older nodes exist.
	Reasons(ctx context.Context, since time.Time) ([]Reason, error)
}

// TokenFile is the path of a projected service account token in a pod.
type TokenFile struct {
	Pod types.UID
	// Volume is the name of the volume in the pod's spec, and Path the path of the file in the volume.
	Volume, Path string
}

// Token describes the token in a file, without containing it.
type Token struct {
	// KeyID is the kid of the token's header.
	KeyID string
	// IssuedAt and RenewBy are when it was issued and when its life ends for the kubelet; the API server may accept it
	// for longer. They are its claims iat, and kubernetes.io.warnafter or else exp.
	IssuedAt, RenewBy time.Time
	// Missing means that there is no such file. Everything but Problem is then zero.
	Missing bool
	// Problem is why the file has no token. It never quotes the file.
	Problem string
}
