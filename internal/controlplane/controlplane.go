// Package controlplane observes and converges what the API servers of a user cluster accept and sign with.
//
// Adapter is the port to whatever runs the API servers. What it says of them is what they were told;
// Prober asks each API server itself, by canary tokens, and is the proof.
package controlplane

import (
	"context"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// Keys is what an API server accepts and signs with, as key versions.
type Keys = rotation.Keys

// Target is what a control plane is to become. API servers that are down, or do not exist yet, are started
// whatever Next and Live say: with the keys they are configured with, or with Keys when they have none. An adapter that
// cannot choose rolls one at a time by itself.
type Target = rotation.Target

// Server is one API server as its adapter knows it.
type Server struct {
	Name string
	// Endpoint is its own https URL, with no load balancer in between.
	Endpoint string
	// Configured is what it is told to run with when it next starts or, with external keys, what its signer is told to
	// serve. It outlives every crash; zero before the first time.
	Configured Keys
	// Running is what the process that runs now was started with or, with external keys, what its signer is told to
	// serve; zero when none runs.
	Running Keys
	// Ready says that it serves: its /readyz is ok and the load balancer, if any, sends it requests.
	Ready bool
	// Waiting says in words why it is not Ready, if it is not.
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
	Servers            []Server
	ControllerManagers []ControllerManager
	// Endpoint is the URL at which clients reach the API servers.
	Endpoint string
	// Home identifies where the control plane runs, for adapters of which each knows the clusters of one host only.
	Home string
	// Waiting says in words what else is missing (etcd, the load balancer, a scheduler …); empty when nothing.
	Waiting string
}

// Adapter runs the control plane of user clusters. Both of its writes are asynchronous and idempotent:
// each call does what can be done now, returns within about a second, and is repeated until Observe
// shows the result. Calls for one cluster do not overlap.
type Adapter interface {
	// Observe looks at the control plane and changes nothing. A cluster never seen before is an empty State.
	Observe(ctx context.Context, uc *v1alpha1.UserCluster) (State, error)
	// Converge brings the control plane nearer to the target. keys holds at least the versions in target;
	// a version that it does not hold is deleted from wherever the adapter keeps keys of servers that no longer use it.
	Converge(ctx context.Context, uc *v1alpha1.UserCluster, target Target, keys []keystore.KeyPair) error
	// Config returns how to reach an API server by client certificate: the one named, or, with an empty name, any
	// by the load balancer.
	Config(ctx context.Context, uc *v1alpha1.UserCluster, server string) (*rest.Config, error)
	// AdminKubeconfig returns a kubeconfig file for the cluster's administrator.
	AdminKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster) ([]byte, error)
	// Delete removes all that Converge made. It reports true when nothing is left.
	Delete(ctx context.Context, uc *v1alpha1.UserCluster) (gone bool, err error)
}
