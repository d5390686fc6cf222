// Package controlplane observes and changes the keys that the API servers of a user cluster accept and sign with.
//
// Adapter is the interface to the system that runs the API servers of one cluster. Its comment is the contract, and
// package controlplanetest tests it. An adapter reports what the API servers are configured with. Prover asks each API
// server itself, with canary tokens, and is the proof.
package controlplane

import (
	"context"
	"crypto"
	"errors"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

// Keys are the keys that an API server accepts and signs with, as key versions.
type Keys = rotation.Keys

// Target is the desired state of a control plane. API servers that are down, or do not exist yet, are started
// regardless of Next and Live: with the keys they are configured with, or with Keys if they have none. An adapter that
// cannot choose changes one at a time.
type Target = rotation.Target

// Server is one API server as its adapter sees it.
type Server struct {
	Name string
	// Endpoint is its own https URL, not that of a load balancer.
	Endpoint string
	// Leaving means that its machine is being removed for good, and that it no longer serves. Nothing waits for it.
	Leaving bool
	// Configured is what it will run with when it next starts or, with external keys, what its signer should serve. It
	// survives every crash; zero before the first time.
	Configured Keys
	// Running is what the current process was started with or, with external keys, what its signer should serve; zero
	// if none runs.
	Running Keys
	// Ready means that it serves: its /readyz is ok and the load balancer, if there is one, sends it requests.
	Ready bool
	// Waiting is why it is not Ready.
	Waiting string
	// Foreign are the kids of keys that it accepts and that are no key version, as far as its adapter knows.
	Foreign []string
}

// ControllerManager is one kube-controller-manager.
type ControllerManager struct {
	Name string
	// Configured and Running are the key versions that it signs legacy tokens with, as in Server.
	Configured, Running int
	Ready               bool
	Waiting             string
}

// State is the control plane of a cluster as its adapter sees it.
type State struct {
	// Presence is whether the control plane exists. It is PresenceAbsent only if that is certain; Servers is then
	// empty. It is PresencePresent only if Servers contains all API servers that exist.
	Presence           rotation.Presence
	Servers            []Server
	ControllerManagers []ControllerManager
	// Bootstrap is what an API server that appears on its own will start with; zero if none can.
	Bootstrap Keys
	// BootstrapForeign are the kids of keys that it will accept too and that are no key version.
	BootstrapForeign []string
	// Held are the key versions whose private key is on the disk of some control-plane machine, ascending.
	Held []int
	// Endpoint is the URL that clients reach the API servers at.
	Endpoint string
	// Object is the name of the object that describes the control plane, for adapters of clusters that have one, and
	// LeftoverSecrets are the Secrets beside it, as NAMESPACE/NAME, that may hold a retired private key.
	Object          string
	LeftoverSecrets []string
	// Home identifies where the control plane runs, for adapters that know only the clusters of one host.
	Home string
	// Waiting is what else is missing (etcd, the load balancer, a scheduler …); empty if nothing. Blocked means that
	// somebody must act before it ends.
	Waiting string
	Blocked bool
	// Unled names a component that creates or schedules pods and has no leader at the moment; empty if there is none.
	// Keys may change meanwhile.
	Unled string
	// Leftovers are files with a private key that only a person deletes. They are valid if LeftoversKnown is set.
	Leftovers      []Leftover
	LeftoversKnown bool
}

// Leftover is a file with a private key of some key version on a control-plane machine.
type Leftover struct {
	Server, Path, KeyID string
}

// ErrStale means that a target is behind the state of the control plane: somebody has acted on a later plan. Observe
// again.
var ErrStale = errors.New("the target is older than what the control plane has")

// BlockedError is an error that persists until somebody acts.
type BlockedError struct{ error }

// Blocked returns an error that persists until somebody acts.
func Blocked(err error) error { return &BlockedError{err} }

// Unwrap returns the wrapped error.
func (e *BlockedError) Unwrap() error { return e.error }

// Adopter is implemented by Adapters for clusters that Keyturn did not create.
type Adopter interface {
	// SigningKey returns the private key with this kid, which the API servers sign with. It changes nothing that an API
	// server reads. It is asynchronous like Converge: nil without an error means not yet.
	SigningKey(ctx context.Context, keyID string) (crypto.Signer, error)
}

// Leaver is implemented by Adapters for clusters that Keyturn did not create.
type Leaver interface {
	// Leave removes what Keyturn runs in a cluster that cannot be released, as far as it can be reached, and changes
	// nothing else. It is called after Delete has failed, and returns within seconds.
	Leave(ctx context.Context) error
}

// ErrNoLedger means that an API server has no ledger, because it signs with files or its signer keeps none. Which of
// its tokens are valid is then unknown.
var ErrNoLedger = errors.New("the API server has no ledger of its tokens")

// Ledgers reads what signers recorded of the tokens that they signed.
type Ledgers interface {
	// Ledger returns the ledger of one API server's signer, even while the signer or the API server is down. Any error
	// other than ErrNoLedger means that the ledger could not be read now.
	Ledger(ctx context.Context, server string) (ledger.Report, error)
}

// Adapter runs the control plane of one user cluster. Calls of one caller do not overlap, but there may be another
// caller, such as a controller that was paused and acts on an old plan.
//
// Absence. Observe distinguishes absent from unseen. A cluster whose control plane was never created, or is deleted, is
// PresenceAbsent. If something cannot be read, the result is an error or PresenceUnknown, never absent and never a
// shorter list of API servers: for the planner, an API server that is not listed does not exist.
//
// Writes. Converge and Delete are asynchronous and idempotent: each call does what can be done now, returns within
// about a second, and is repeated until Observe shows the result. A call that fails may have done some of it.
//
// Stages. Converge refuses a target with ErrStale, and changes nothing, if some API server is configured with keys of a
// later stage (rotation.Keys.Stage) than target.Keys, or some kube-controller-manager with a later version than
// target.ControllerManagerSign. For each machine, the comparison and the write are atomic, also against another caller.
// The bootstrap material of future API servers is changed before any API server.
//
// One at a time. Converge takes an API server down only if target.Next names it, and only if all others that stay are
// serving. The adapter checks this immediately before, so that two callers cannot take down one each. The exception is
// an API server that does not accept tokens of target.Keys.Sign. It refuses tokens that are in use, which is worse than
// being down, so it is changed even while another one is down.
type Adapter interface {
	Ledgers
	// Observe returns the state of the control plane and changes nothing.
	Observe(ctx context.Context) (State, error)
	// Converge moves the control plane towards the target. keys holds the versions in target, and those versions that
	// API servers and kube-controller-managers are configured or run with that are stored. The adapter deletes all
	// other versions wherever it keeps keys, and State.Held then no longer lists them.
	Converge(ctx context.Context, target Target, keys []keystore.KeyPair) error
	// Config returns how to reach an API server with a client certificate: the one named, or any, through the load
	// balancer, if the name is empty.
	Config(ctx context.Context, server string) (*rest.Config, error)
	// AdminKubeconfig returns a kubeconfig file for the cluster's administrator. It is not called for an adopted
	// cluster, whose administrators have one.
	AdminKubeconfig(ctx context.Context) ([]byte, error)
	// Delete removes everything that Converge made. It returns true when nothing is left. Of the cluster's spec, it
	// needs only the name, so that a cluster that could never be created can be deleted.
	Delete(ctx context.Context) (gone bool, err error)
}
