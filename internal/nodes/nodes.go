// Package nodes is the port to the nodes of a user cluster, and to the machines that they run on.
//
// A rotation must leave no pod with a token of the old key: the node under it is replaced, or the token is. Adapter
// is all that the controller sees of that. Package rollout implements it over two smaller ports and the API of the
// cluster, and each of these has a package that plans purely and carries out what it planned:
//
//   - Machines are made, drained and removed: package pools;
//   - a Refresher replaces the tokens that pods hold on machines that stay: package tokens;
//   - the API shows how old pods are, and evicts them: package evict.
//
// Where somebody else makes the nodes, a Roller has them replaced. Package nodestest has the conformance suites of the
// other three ports.
package nodes

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// Adapter owns the nodes of one cluster. Converge is asynchronous and idempotent: each call does what can be done now,
// returns within about a second, and is repeated until Observe shows the result. Calls for one cluster do not overlap.
type Adapter interface {
	// Observe changes nothing. It fails when it cannot see everything: nodes that are not in State do not exist.
	Observe(ctx context.Context, keys Keys) (State, error)
	// Converge brings every pool nearer to its size, with nodes of keys.Next or later only. It is called only while
	// every API server signs with keys.Next. Called with an older version than before, it takes nothing back: the
	// KeyVersion of a node never goes down.
	Converge(ctx context.Context, keys Keys) error
	// Delete removes all that Converge made. It reports true when nothing is left. It needs no API server.
	Delete(ctx context.Context) (gone bool, err error)
}

// Keys are the key versions of a cluster, as far as its nodes are concerned.
type Keys struct {
	// Next is the newest version that is stored, and KeyID its kid.
	Next  int
	KeyID string
	// Old is the version that a rotation to Next is about to retire. It is 0 while no rotation runs: then API servers
	// accept no token older than Next.
	Old int
	// ProvenAt is when API servers issued the tokens by which all of them proved to sign with Next, in this round: the
	// latest iat, each by the clock of its server. It is zero while not all have.
	ProvenAt time.Time
	// Named means that pods are named that keep an old token, so State.Holders matters while no rotation runs.
	Named bool
}

// State is the nodes of a cluster as observed.
type State struct {
	Nodes []Node
	// Converged reports whether each pool has exactly its replicas, all of them ready and none on its way out, and
	// nothing is left of other pools or of machines that are gone. Nodes that Keyturn did not make do not matter.
	Converged bool
	// Oldest is the lowest KeyVersion of all nodes, at least 1; 0 without nodes.
	Oldest int
	// Waiting names what stands in the way; empty when nothing does. It continues the words "waiting for", so each
	// reason reads "X to do Y" ("node a to be ready"). What helps a person follows after a comma, a colon or in
	// parentheses; reasons are joined by semicolons.
	Waiting string
	// Blocked means that somebody must act before Waiting can end.
	Blocked bool
	// Holders are running pods that keep a token of an older key until they, or some of their containers, start again,
	// and for which no rotation waits: the user was told of them before. They are known if HoldersKnown says so.
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
	// KeyVersion is one that no token of a pod on the node is older than, but for those of State.Holders. For a
	// machine it is the version in use when the machine was made, raised when the tokens of its pods were replaced.
	KeyVersion int
	// Ready means that its Node object exists and pods can run there.
	Ready bool
	// Deleting means that it is on its way out: cordoned, drained or removed.
	Deleting bool
}

// Oldest returns the lowest KeyVersion of some nodes; 0 without nodes. A node of unknown version may be of any time, so
// it counts as one of version 1.
func Oldest(all []Node) int {
	oldest := 0
	for _, n := range all {
		if version := max(n.KeyVersion, 1); oldest == 0 || version < oldest {
			oldest = version
		}
	}
	return oldest
}

// Machines makes and removes the machines of one cluster. All calls are idempotent and return soon.
type Machines interface {
	// List returns the machines that exist, running or not, half-made ones included. It fails when it cannot see all of
	// them: a machine that is not listed does not exist.
	List(ctx context.Context) ([]Machine, error)
	// Ensure makes a machine that does not exist, with its name, pool and key version, and starts one that does not
	// run. A machine that exists keeps its pool and key version. The pool gives labels and taints.
	Ensure(ctx context.Context, m Machine, pool v1alpha1.NodePool) error
	// Remove ends a machine and deletes its disk. It reports true when nothing is left, also of a machine that never
	// existed, and is to be called again when it does not.
	Remove(ctx context.Context, name string) (gone bool, err error)
}

// Machine is a computer that runs, or is to run, a kubelet. Its Node object has the same name.
type Machine struct {
	Name, Pool string
	// KeyVersion is remembered with the machine for as long as it exists.
	KeyVersion int
	// Running means that it is up, in any state of its kubelet.
	Running bool
	// Refresh is the latest one that was begun on it.
	Refresh Refresh
}

// Refreshing reports whether the tokens on the machine are being replaced.
func (m Machine) Refreshing() bool { return m.Refresh.KeyVersion > m.KeyVersion }

// Refresh is one replacement of the tokens of all pods on a machine that stays. All but Kubelet is remembered with the
// machine; it is zero for a machine on which none was ever begun.
type Refresh struct {
	// KeyVersion is that of the tokens that the pods are to have.
	KeyVersion int
	// Since is when it was begun. Every token that was issued later is of KeyVersion.
	Since time.Time
	// Kubelet is when the kubelet that runs was started; zero while it is one from before Since, while none runs, and
	// once the machine is of KeyVersion.
	Kubelet time.Time
	// Proven is when the last of the files that had an older token got a new one; zero until all have.
	Proven time.Time
}

// Refresher replaces tokens on machines that stay. All calls are idempotent and return soon.
type Refresher interface {
	// Remember keeps KeyVersion, Refresh.KeyVersion, Since and Proven of a machine. When it returns nil they outlive a
	// power cut. Versions never go down: a Machine with an older one is refused, as is one that does not exist, and
	// nothing changes. Since stays while Refresh.KeyVersion does.
	Remember(ctx context.Context, m Machine) error
	// RestartKubelet ends the kubelet of a machine if it was started before the Refresh that is remembered, and has the
	// machine start another. No container ends by that. It does nothing while no kubelet runs.
	RestartKubelet(ctx context.Context, name string) error
	// Tokens reads token files on a machine that runs, as the pods see them now, and returns as many tokens in the same
	// order. A file that cannot be read is no error, but a Token that says why. A machine that cannot be read is one.
	Tokens(ctx context.Context, name string, files []TokenFile) ([]Token, error)
}

// Roller has whoever made the nodes of a cluster replace them. All calls are idempotent and return soon.
type Roller interface {
	// Roll asks for each node from before a time to be replaced, unless that was asked for.
	Roll(ctx context.Context, since time.Time) error
	// Reasons are what that waits for, as far as it can be told; it is called while nodes from before are there.
	Reasons(ctx context.Context, since time.Time) ([]Reason, error)
}

// TokenFile is where a pod has a projected service account token.
type TokenFile struct {
	Pod types.UID
	// Volume is the name of the volume in the pod's spec, and Path that of the file in the volume.
	Volume, Path string
}

// Token is what is known of the token in a file, without the token.
type Token struct {
	// KeyID is the kid of the token's header.
	KeyID string
	// IssuedAt and RenewBy are when it was issued and when its life ends for the kubelet, which the API server may let
	// it outlive: its claims iat, and kubernetes.io.warnafter or else exp.
	IssuedAt, RenewBy time.Time
	// Replaced is when the file got its content, by the clock of the machine.
	Replaced time.Time
	// Missing means that there is no such file. All but Problem is zero then.
	Missing bool
	// Problem is why the file has no token. It never quotes the file.
	Problem string
}
