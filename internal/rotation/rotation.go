// Package rotation decides what a rotation of a signing key does next.
//
// Start with Plan: it maps the observation of a cluster to one Decision. It is pure: it knows no Kubernetes, clock,
// disk or network, keeps no state and never fails; waiting and being blocked are results. The step is derived from what
// is observed, never from a saved step. So after a crash anywhere, planning again is the recovery. PlanRemoval is its
// counterpart for a cluster that is being deleted.
//
// Plan guarantees, for every sequence of observations that is true at the time of each call:
//
//   - no API server starts to sign with a key that some verifier has not proven to accept;
//   - at most one API server is taken out at a time, and only while all others are proven; one that gets its keys from
//     a signer is never taken out to change them;
//   - a key version is deleted only after every verifier refuses it, and no token or node of it is left;
//   - while tokens that nothing replaces are awaited, no verifier loses a key of which one may live, before the limit;
//   - a rotation only goes forward.
//
// API servers may come and go meanwhile. One lags behind if its machine started with keys of an earlier step or was
// restored from a backup. It refuses tokens that are in use, so Plan gives it the current keys before any other change,
// even while another one is down. Nothing waits for an API server that is being removed. While an observation may lack
// API servers, Plan writes nothing.
//
// Others may act on older plans at the same time, for example a controller that was paused. Their writes do no harm if
// whoever executes them refuses to go backward: see Keys.Stage.
package rotation

import (
	"slices"
	"time"
)

// Keys are the keys that an API server accepts and signs with, as key versions.
type Keys struct {
	// Verify is ascending and contains Sign.
	Verify []int
	Sign   int
	// External means that it gets them from a signer, which can change them while both run. Otherwise it reads them
	// from files when it starts.
	External bool `json:",omitempty"`
}

// Equal reports whether k and o are the same keys from the same source.
func (k Keys) Equal(o Keys) bool {
	return k.Sign == o.Sign && slices.Equal(k.Verify, o.Verify) && k.External == o.External
}

// IsZero reports whether there are no keys.
func (k Keys) IsZero() bool { return k.Sign == 0 && len(k.Verify) == 0 }

// Observed is the observed state of one cluster.
type Observed struct {
	// Wanted is the key version that the spec asks for.
	Wanted int
	// External means that API servers should get their keys from a signer, according to the spec.
	External bool
	// Stored are the key versions in the store, ascending.
	Stored []int
	// Completed means that the rotation to Wanted was seen to end: every older version is retired.
	Completed bool
	// Presence is whether the cluster has a control plane, as far as this observation shows.
	Presence Presence
	// Adopted means that Keyturn did not create the cluster: it never creates its control plane, and takes the key that
	// it signs with as version 1.
	Adopted bool
	// Servers are the API servers; none before the control plane was first created.
	Servers []Server
	// Bootstrap is what an API server that appears on its own will start with; zero if none can.
	Bootstrap Keys
	// BootstrapForeign are the kids of foreign keys that it would accept then.
	BootstrapForeign []string
	// ControllerManagers are the kube-controller-managers, the second kind of signer.
	ControllerManagers []ControllerManager
	// ControlPlaneWaiting is what else the control plane lacks; empty if nothing. ControlPlaneBlocked means that a
	// person must act.
	ControlPlaneWaiting string
	ControlPlaneBlocked bool
	// Unled names a component that creates or schedules pods and has no leader at the moment; empty if there is none.
	// No pod is evicted meanwhile.
	Unled string
	// Held are the key versions whose private key is on the disk of some control-plane machine, ascending.
	Held []int
	// ForeignMayGo are the kids of foreign keys that API servers may stop accepting: the user has released them, or they
	// belong to key versions that were retired.
	ForeignMayGo []string
	// KubeconfigDue means that the administrator's kubeconfig must be written.
	KubeconfigDue bool
	// Publications are the destinations that keys are published to for verifiers outside the cluster.
	Publications []Publication
	// Legacy is what is known of the legacy tokens.
	Legacy Legacy
	// Nodes is what is known of the nodes.
	Nodes Nodes
	// Outstanding is what is known of the tokens of the oldest key that no step replaces.
	Outstanding Outstanding
}

// Presence is whether a control plane exists. Its zero value is PresenceUnknown, since absence must be established.
type Presence int

const (
	// PresenceUnknown means that it could not be observed completely: API servers that are not listed may exist.
	PresenceUnknown Presence = iota
	// PresenceAbsent means that there is certainly no control plane, and so no token. It may be created.
	PresenceAbsent
	// PresencePresent means that the control plane exists, and that all of its API servers are listed.
	PresencePresent
)

// Server is one API server.
type Server struct {
	Name string
	// Leaving means that its machine is being removed: nothing waits for it.
	Leaving bool
	// Foreign are the kids of keys that it accepts and that are no key version of the cluster, in any order.
	Foreign []string
	// SignsForeign is the kid of a fresh token that it issued, if no key version of the cluster signed that.
	SignsForeign string
	// Configured is what it starts with next; it survives every crash. Zero before the first time.
	Configured Keys
	// Running is what its process was started with; zero if none runs.
	Running Keys
	// Ready means that it serves. Waiting is why it does not.
	Ready   bool
	Waiting string
	// Accepts and Refuses are the key versions whose canary tokens it accepted and refused. A version in neither is
	// unknown.
	Accepts, Refuses []int
	// Signs is the key version of a fresh token that it issued; 0 if unknown.
	Signs int
	// Forgets is when its cache of accepted tokens can no longer hold one of a refused key. Zero: it has none.
	Forgets time.Time
	// WatchesBack is when clients have certainly restarted the watches that its last restart broke. Until then a
	// kubelet may not see that a Secret has changed. Zero: it was not restarted, as far as is known.
	WatchesBack time.Time
}

// ControllerManager is one kube-controller-manager.
type ControllerManager struct {
	Name                string
	Configured, Running int
	Ready               bool
	Waiting             string
}

// Publication is one destination that keys are published to for verifiers outside the cluster, such as a fleet.
type Publication struct {
	Name string
	// Accepts and Refuses are the key versions that its verifiers were seen to accept and refuse. A version in neither
	// is unknown.
	Accepts, Refuses []int
	// CertainAt is when its verifiers can no longer use what was published before.
	CertainAt time.Time
	// Waiting is why it cannot be reached, or what else is wrong with it.
	Waiting string
}

// Legacy is what is known of the legacy tokens.
type Legacy struct {
	// Proven is the key version of all legacy tokens, according to a walk that began after every signer used that
	// version; 0 if unknown.
	Proven int
	// Final is Proven, according to a walk that began after all nodes were of that version, too.
	Final int
	// Waiting is what the refresh waits for. Blocked means that a person must act.
	Waiting string
	Blocked bool
}

// Nodes is what is known of the nodes.
type Nodes struct {
	// Oldest is the oldest key version of a node; 0 without nodes.
	Oldest int
	// Converged means that each pool has its wanted size and all nodes are ready.
	Converged bool
	// Waiting is what the nodes wait for. Blocked means that a person must act.
	Waiting string
	Blocked bool
}

// Outstanding describes the tokens of the oldest key that no step of a rotation replaces: third-party tokens, and those
// that somebody requested. They are valid until they expire.
type Outstanding struct {
	// Awaited means that Retire waits until all of them have expired.
	Awaited bool
	// Gone is when all of them have certainly expired; zero if unknown.
	Gone time.Time
	// Limit is when Retire stops waiting for them; zero before it begins to.
	Limit time.Time
	// Waiting describes which of them may be valid.
	Waiting string
}

// Live reports whether some of them may be valid.
func (o Outstanding) Live(now time.Time) bool { return o.Gone.IsZero() || now.Before(o.Gone) }

// Overdue reports whether Retire has waited for them for as long as it may.
func (o Outstanding) Overdue(now time.Time) bool { return !o.Limit.IsZero() && !now.Before(o.Limit) }

// Step is a step of a rotation; empty when none runs.
type Step string

// The steps of a rotation, in order.
const (
	StepGenerate Step = "Generate"
	StepPublish  Step = "Publish"
	StepSwitch   Step = "Switch"
	StepRefresh  Step = "Refresh"
	StepRetire   Step = "Retire"
)

// ActionKind is the kind of an external write.
type ActionKind string

// The kinds of external writes. Each is idempotent.
const (
	// Wait writes nothing.
	Wait ActionKind = "Wait"
	// AdoptKey stores the key pair with kid Action.KeyID, which the API servers sign with, as Action.Version.
	AdoptKey ActionKind = "AdoptKey"
	// GenerateKey stores a new key pair of Action.Version.
	GenerateKey ActionKind = "GenerateKey"
	// ConvergeControlPlane moves the control plane towards Action.Target.
	ConvergeControlPlane ActionKind = "ConvergeControlPlane"
	// PublishKeys makes Action.Publish the only published keys, at every destination.
	PublishKeys ActionKind = "PublishKeys"
	// RefreshTokens signs legacy tokens again with Action.Version, and proves that none of another version is left.
	RefreshTokens ActionKind = "RefreshTokens"
	// ConvergeNodes moves the node pools towards their size, with nodes of Action.Version.
	ConvergeNodes ActionKind = "ConvergeNodes"
	// WriteKubeconfig stores the administrator's kubeconfig.
	WriteKubeconfig ActionKind = "WriteKubeconfig"
	// DeleteKey deletes the private key of Action.Version for good.
	DeleteKey ActionKind = "DeleteKey"
)

// Action is one external write.
type Action struct {
	Kind    ActionKind
	Version int
	KeyID   string
	Target  Target
	Publish []int
}

// Target is the desired state of a control plane.
type Target struct {
	// Keys are the keys that every API server should run with in the end.
	Keys Keys
	// Next names the one API server that may get Keys now, and may be restarted for that if it has no signer. If empty,
	// none may.
	Next string
	// Bootstrap means that the bootstrap material may change to Keys now.
	Bootstrap bool
	// DropForeign are the kids of foreign keys that API servers may stop accepting. They keep all others.
	DropForeign []string
	// Live means that all API servers that can change to Keys without a restart may do so now.
	Live bool
	// ControllerManagerSign is the key version that every kube-controller-manager should sign with.
	ControllerManagerSign int
}

// Versions are the three versions that `status` prints.
type Versions struct {
	// Token is the oldest key version that a valid token may be signed with.
	Token int
	// Private is the oldest key version that some signer still signs with.
	Private int
	// Public are the accepted key versions, ascending.
	Public []int
}

// Decision is what to do next, and what to report about it.
type Decision struct {
	// Step is the current step; empty if no rotation runs.
	Step Step
	// Action is the one external write to do now.
	Action Action
	// Waiting is what Plan waits for, naming the object; empty if nothing.
	Waiting string
	// Until is when Waiting ends at the latest, if it only takes time; else zero.
	Until time.Time
	// Blocked means that a person must act before Waiting can end.
	Blocked bool
	// Patient means that Waiting takes minutes or hours, so that it need not be checked often.
	Patient bool
	// Versions are the observed three versions.
	Versions Versions
	// Done means that the wanted key version is the only one in use: no rotation runs or is due and, after version 1,
	// no API server accepts a foreign key. It is the only definition of a finished rotation; conditions, policies and
	// commands follow it.
	Done bool
	// Settled means that nothing is left to do: Done, and the control plane and the nodes are as wanted. Its Action
	// only keeps them so.
	Settled bool
	// Blind means that the control plane was not seen completely, so Step, Versions and Done are unknown. Their last
	// known values remain.
	Blind bool
}
