// Package controlplane observes and converges what the API servers of a user cluster accept and sign with.
//
// Adapter is the port to the system that runs the API servers of one cluster; its comment is the contract, and package
// controlplanetest has it as tests. What an adapter reports is what the API servers are configured with. Prover asks
// each API server itself, by canary tokens, and is the proof.
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

// Keys is what an API server accepts and signs with, as key versions.
type Keys = rotation.Keys

// Target is what a control plane is to become. API servers that are down, or do not exist yet, are started
// regardless of Next and Live: with the keys they are configured with, or with Keys when they have none. An adapter
// that cannot choose rolls one at a time.
type Target = rotation.Target

// Server is one API server as its adapter knows it.
type Server struct {
	Name string
	// Endpoint is its own https URL, with no load balancer in between.
	Endpoint string
	// Leaving means that its machine is being removed for good, and that it no longer serves. Nothing waits for it.
	Leaving bool
	// Configured is what it is to run with when it next starts or, with external keys, what its signer is to serve. It
	// outlives every crash; zero before the first time.
	Configured Keys
	// Running is what the process that runs now was started with or, with external keys, what its signer is to serve;
	// zero when none runs.
	Running Keys
	// Ready means that it serves: its /readyz is ok and the load balancer, if any, sends it requests.
	Ready bool
	// Waiting is in words why it is not Ready, if it is not.
	Waiting string
}

// ControllerManager is one kube-controller-manager.
type ControllerManager struct {
	Name string
	// Configured and Running are the key versions with which it signs legacy tokens, as in Server.
	Configured, Running int
	Ready               bool
	Waiting             string
}

// State is the control plane of a cluster as its adapter knows it.
type State struct {
	// Presence is whether the control plane exists. It is PresenceAbsent only if that is certain, and then Servers is
	// empty; PresencePresent only if every API server that exists is in Servers.
	Presence           rotation.Presence
	Servers            []Server
	ControllerManagers []ControllerManager
	// Bootstrap is what an API server that nobody has asked for yet will start with; zero when none can appear on its
	// own.
	Bootstrap Keys
	// Held are the key versions whose private key some machine of the control plane has on disk, ascending.
	Held []int
	// Endpoint is the URL at which clients reach the API servers.
	Endpoint string
	// Home identifies where the control plane runs, for adapters of which each knows the clusters of one host only.
	Home string
	// Waiting is in words what else is missing (etcd, the load balancer, a scheduler …); empty when nothing is. Blocked
	// means that somebody must act before it ends.
	Waiting string
	Blocked bool
	// Unled is which component that makes or places pods has no leader for a moment, in words; empty when none. Keys may
	// change meanwhile.
	Unled string
	// Leftovers are files with a private key that nobody deletes but a person. They are known if LeftoversKnown says so.
	Leftovers      []Leftover
	LeftoversKnown bool
}

// Leftover is a file with a private key of some key version on a machine of the control plane.
type Leftover struct {
	Server, Path, KeyID string
}

// ErrStale means that a target is behind what the control plane holds: somebody has acted on a later plan. Observe
// again.
var ErrStale = errors.New("the target is older than what the control plane has")

// BlockedError is an error that lasts until somebody acts.
type BlockedError struct{ error }

// Blocked returns an error that lasts until somebody acts.
func Blocked(err error) error { return &BlockedError{err} }

// Unwrap returns the error itself.
func (e *BlockedError) Unwrap() error { return e.error }

// Adopter is what an Adapter implements besides whose clusters somebody else made.
type Adopter interface {
	// SigningKey returns the private key of a kid, with which the API servers sign. It changes nothing that an API server
	// reads. It is asynchronous as Converge is: nil without an error means not yet.
	SigningKey(ctx context.Context, keyID string) (crypto.Signer, error)
}

// ErrNoLedger means that an API server has no ledger, because it signs with files or its signer keeps none. Which of
// its tokens live is not known.
var ErrNoLedger = errors.New("the API server has no ledger of its tokens")

// Ledgers reads what signers know of the tokens that they signed.
type Ledgers interface {
	// Ledger returns what the signer of one API server knows, also while the signer or the API server is down. Any other
	// error than ErrNoLedger means that the ledger could not be read now.
	Ledger(ctx context.Context, server string) (ledger.Report, error)
}

// Adapter runs the control plane of one user cluster. Calls of one caller do not overlap, but there may be another
// caller: a controller that was paused and acts on an old plan.
//
// Absence. Observe tells absent from unseen. A cluster whose control plane was never made, or is deleted, is
// PresenceAbsent. One of which something cannot be read is an error or PresenceUnknown, never absent and never a
// shorter list of API servers: the planner takes an API server that is not listed for one that does not exist.
//
// Writes. Converge and Delete are asynchronous and idempotent: each call does what can be done now, returns within
// about a second, and is repeated until Observe shows the result. A call that fails may have done some of it.
//
// Stages. Converge refuses a target with ErrStale if some API server is configured with keys of a later stage
// (rotation.Keys.Stage) than target.Keys, or some kube-controller-manager with a later version than
// target.ControllerManagerSign, and then changes nothing. For each machine the comparison and the write are one step,
// also against another caller. What API servers start with that appear on their own is changed before any API server.
//
// One at a time. Converge takes an API server out only if target.Next names it, and only if all others that are to stay
// serve. The adapter checks that itself right before, so that two callers cannot take out one each. The exception is an
// API server that does not accept what target.Keys.Sign signs: it refuses tokens that are in use, which is worse than
// being away, so it is brought up beside one that is out.
type Adapter interface {
	Ledgers
	// Observe reports on the control plane and changes nothing.
	Observe(ctx context.Context) (State, error)
	// Converge brings the control plane nearer to the target. keys holds the versions in target, and those that API
	// servers and kube-controller-managers are configured or run with as far as they are stored. Any other is deleted from
	// wherever the adapter keeps keys, and no longer in State.Held then.
	Converge(ctx context.Context, target Target, keys []keystore.KeyPair) error
	// Config returns how to reach an API server by client certificate: the one named, or, with an empty name, any by
	// the load balancer.
	Config(ctx context.Context, server string) (*rest.Config, error)
	// AdminKubeconfig returns a kubeconfig file for the cluster's administrator. It is not called for a cluster that
	// somebody else made, whose administrators have theirs.
	AdminKubeconfig(ctx context.Context) ([]byte, error)
	// Delete removes all that Converge made. It reports true when nothing is left. It needs no more of the cluster's
	// spec than its name, so that a cluster which could never be made can be deleted.
	Delete(ctx context.Context) (gone bool, err error)
}
