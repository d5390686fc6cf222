// Package rotation decides what a rotation of a signing key does next.
//
// Plan is where to start: it maps what was observed of a cluster to one Decision. It is pure: it knows no
// Kubernetes, clock, disk or network, keeps no state and never fails; waiting and being blocked are results. The
// step is derived from what is observed and never from a saved step, so that planning again after a crash
// anywhere is the recovery. PlanRemoval is its counterpart for a cluster that is being deleted.
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
// API servers may come and go meanwhile. One that lags behind, because its machine started with keys of an earlier
// step or was restored from a backup, refuses tokens that are in use: Plan brings it up before any other, even while
// another is out. Nothing waits for one that is leaving for good. While an observation may lack API servers, Plan
// writes nothing.
//
// Others may act on older plans at the same time, such as a controller that was paused. Their writes do no harm if
// whoever executes them refuses to go backward: see Keys.Stage.
package rotation

import (
	"slices"
	"time"
)

// Keys is what an API server accepts and signs with, as key versions.
type Keys struct {
	// Verify is ascending and holds Sign.
	Verify []int
	Sign   int
	// External means that it asks a signer for them, which changes them while both run. Otherwise it reads them from
	// files when it starts.
	External bool `json:",omitempty"`
}

// Equal reports whether both mean the same keys from the same source.
func (k Keys) Equal(o Keys) bool {
	return k.Sign == o.Sign && slices.Equal(k.Verify, o.Verify) && k.External == o.External
}

// IsZero reports whether no keys are meant.
func (k Keys) IsZero() bool { return k.Sign == 0 && len(k.Verify) == 0 }

// Observed is what was seen of one cluster.
type Observed struct {
	// Wanted is the key version that the spec asks for.
	Wanted int
	// External means that API servers are to get their keys from a signer, by the spec.
	External bool
	// Stored are the key versions in the store, ascending.
	Stored []int
	// Completed means that the rotation to Wanted was seen to end: every older version is retired.
	Completed bool
	// Presence is whether the cluster has a control plane, as far as this look could tell.
	Presence Presence
	// Adopted means that somebody else made the cluster: Keyturn never makes it, and takes the key that it signs with as
	// version 1.
	Adopted bool
	// Servers are the API servers; none before the control plane was first made.
	Servers []Server
	// Bootstrap is what an API server that nobody has asked for yet will start with; zero when none can appear on its own.
	Bootstrap Keys
	// ControllerManagers are the kube-controller-managers, the second kind of signer.
	ControllerManagers []ControllerManager
	// ControlPlaneWaiting is what else the control plane lacks, in words; empty when nothing. ControlPlaneBlocked means
	// that a person must act.
	ControlPlaneWaiting string
	ControlPlaneBlocked bool
	// Unled is which component that makes or places pods has no leader for a moment, in words; empty when none. No pod is
	// evicted meanwhile.
	Unled string
	// Held are the key versions whose private half some machine of the control plane has on disk, ascending.
	Held []int
	// ForeignMayGo are the kids of foreign keys that the user has released: API servers may stop to accept them.
	ForeignMayGo []string
	// KubeconfigDue means that the administrator's kubeconfig is not stored as it should be.
	KubeconfigDue bool
	// Publications are the destinations to which keys are published for verifiers outside the cluster.
	Publications []Publication
	// Legacy is what is known of the legacy tokens.
	Legacy Legacy
	// Nodes is what is known of the nodes.
	Nodes Nodes
	// Outstanding is what is known of the tokens of the oldest key that no step replaces.
	Outstanding Outstanding
}

// Presence is whether a control plane exists. Its zero value is PresenceUnknown: absence has to be established.
type Presence int

const (
	// PresenceUnknown means that nobody could tell, or not of all of it: what is not listed may exist.
	PresenceUnknown Presence = iota
	// PresenceAbsent means that there is certainly no control plane, and so no token. It may be made.
	PresenceAbsent
	// PresencePresent means that the control plane exists, and that every API server of it is listed.
	PresencePresent
)

// Server is one API server.
type Server struct {
	Name string
	// Leaving means that its machine is being removed for good: nothing waits for it.
	Leaving bool
	// Foreign are the kids of keys that it accepts and that are no key version of ours, in any order.
	Foreign []string
	// SignsForeign is the kid of a fresh token that it issued, if that is signed with no key version of ours.
	SignsForeign string
	// Configured is what it starts with next; it outlives every crash. Zero before the first time.
	Configured Keys
	// Running is what its process was started with; zero when none runs.
	Running Keys
	// Ready means that it serves. Waiting is why it does not, in words.
	Ready   bool
	Waiting string
	// Accepts and Refuses are the key versions whose canary tokens it accepted and refused; a version in
	// neither is not known.
	Accepts, Refuses []int
	// Signs is the key version of a fresh token that it issued; 0 when not known.
	Signs int
	// Forgets is when its cache of accepted tokens can no longer hold one of a refused key. Zero: it has none.
	Forgets time.Time
}

// ControllerManager is one kube-controller-manager.
type ControllerManager struct {
	Name                string
	Configured, Running int
	Ready               bool
	Waiting             string
}

// Publication is one destination to which keys are published for verifiers outside the cluster, such as a fleet.
type Publication struct {
	Name string
	// Accepts and Refuses are the key versions that its verifiers were seen to accept and refuse; a version in
	// neither is not known.
	Accepts, Refuses []int
	// SureAt is when its verifiers can no longer use what was published before.
	SureAt time.Time
	// Waiting is why it cannot be asked, or what else is wrong with it, in words.
	Waiting string
}

// Legacy is what is known of the legacy tokens.
type Legacy struct {
	// Proven is the key version of all legacy tokens, by a walk that began after every signer was on that
	// version; 0 when not known.
	Proven int
	// Final is the same, by a walk that began when all nodes were of that version as well.
	Final int
	// Waiting is what the refresh waits for, in words. Blocked means that a person must act.
	Waiting string
	Blocked bool
}

// Nodes is what is known of the nodes.
type Nodes struct {
	// Oldest is the oldest key version from whose time a node is; 0 without nodes.
	Oldest int
	// Converged means that each pool has its wanted size and all nodes are ready.
	Converged bool
	// Waiting is what the nodes wait for, in words. Blocked means that a person must act.
	Waiting string
	Blocked bool
}

// Outstanding is what is known of the tokens of the oldest key that no step of a rotation replaces: third-party tokens,
// and those that somebody asked for. They live until they expire.
type Outstanding struct {
	// Awaited means that Retire waits until none of them lives.
	Awaited bool
	// Gone is from when on certainly none of them lives; zero when not known.
	Gone time.Time
	// Limit is when Retire stops waiting for them; zero while it has not begun to.
	Limit time.Time
	// Waiting is which of them may live, in words.
	Waiting string
}

// Live reports whether some of them may live.
func (o Outstanding) Live(now time.Time) bool { return o.Gone.IsZero() || now.Before(o.Gone) }

// Overdue reports whether the time is over for which Retire waits for them.
func (o Outstanding) Overdue(now time.Time) bool { return !o.Limit.IsZero() && !now.Before(o.Limit) }

// Step is a step of a rotation; empty when none runs.
type Step string

// The steps of a rotation, in their order.
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
	// AdoptKey stores the key pair of the kid Action.KeyID, with which the API servers sign, as Action.Version.
	AdoptKey ActionKind = "AdoptKey"
	// GenerateKey stores a new key pair of Action.Version.
	GenerateKey ActionKind = "GenerateKey"
	// ConvergeControlPlane brings the control plane nearer to Action.Target.
	ConvergeControlPlane ActionKind = "ConvergeControlPlane"
	// PublishKeys makes Action.Publish the only keys that are published, at every destination.
	PublishKeys ActionKind = "PublishKeys"
	// RefreshTokens re-signs legacy tokens with Action.Version, and proves that none of another version is left.
	RefreshTokens ActionKind = "RefreshTokens"
	// ConvergeNodes brings the node pools to their size, with nodes of Action.Version.
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

// Target is what a control plane is to become.
type Target struct {
	// Keys is what every API server is to run with in the end.
	Keys Keys
	// Next names the one API server that may be given Keys now, and be taken out for them if it has no signer; empty: none
	// may.
	Next string
	// Bootstrap means that the bootstrap material may be changed to Keys now.
	Bootstrap bool
	// KeepForeign means that API servers go on accepting the foreign keys that they accept.
	KeepForeign bool
	// Live means that every API server which can change to Keys without being taken out may do so now.
	Live bool
	// ControllerManagerSign is the key version with which every kube-controller-manager is to sign.
	ControllerManagerSign int
}

// Versions are the three versions that `status` prints.
type Versions struct {
	// Token is the oldest key version that some token may still be signed with.
	Token int
	// Private is the oldest key version that some signer still signs with.
	Private int
	// Public are the accepted key versions, ascending.
	Public []int
}

// Decision is what to do next, and what to tell about it.
type Decision struct {
	// Step is the step that runs; empty when no rotation does.
	Step Step
	// Action is the one external write to do now.
	Action Action
	// Waiting is what Plan waits for, in words that name the object; empty when it waits for nothing.
	Waiting string
	// Until is when Waiting ends at the latest, if it ends by the passing of time alone; else zero.
	Until time.Time
	// Blocked means that a person must act before Waiting can end.
	Blocked bool
	// Patient means that Waiting takes minutes or hours, so that nobody need ask often whether it has ended.
	Patient bool
	// Versions is what was observed of the three versions.
	Versions Versions
	// Done means that the wanted key version is the only one in use: no rotation runs or is due, and, after the first
	// version, no API server accepts a foreign key. It is the one definition of a rotation that has ended; conditions,
	// policies and commands follow it.
	Done bool
	// Settled means that nothing is left to do: Done, and the control plane and the nodes are as wanted. Its Action only
	// keeps them so.
	Settled bool
	// Blind means that not all of the control plane was seen, so Step, Versions and Done are unknown: what was last known
	// of them still stands.
	Blind bool
}
