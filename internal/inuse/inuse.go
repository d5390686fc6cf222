// Package inuse adds up which service account tokens of a cluster live, who holds them, and what replaces them.
//
// Sum is where to start. It is pure: it joins what the ledgers of the signers report (package signer/ledger), what pods
// hold (package podtokens) and what Secrets hold. A token that is bound to a pod which is gone counts as dead, since
// API servers refuse it. What nobody can know is a Gap and never counts as nothing.
package inuse

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/signer/ledger"
)

// Kind is a kind of token.
type Kind string

// The kinds.
const (
	// Bound is a token for the API server that a pod's spec asks for.
	Bound = Kind(podtokens.Bound)
	// ThirdParty is a token of a living pod for somebody else.
	ThirdParty = Kind(podtokens.ThirdParty)
	// Legacy is a token in a Secret.
	Legacy = Kind(podtokens.Legacy)
	// Requested is a token that somebody asked for, and that no pod's spec does: kubectl create token, CI systems.
	Requested Kind = "Requested"
	// Unknown is a token of which a ledger has not kept enough.
	Unknown Kind = "Unknown"
)

// Kinds are all kinds, the least known first.
var Kinds = []Kind{Unknown, Requested, ThirdParty, Legacy, Bound}

// awaited reports whether no step of a rotation replaces tokens of a kind, so that they live until they expire.
func (k Kind) awaited() bool { return k == Unknown || k == Requested || k == ThirdParty }

// Refresh is what gives the holder of a token one of the next key.
type Refresh string

// The refreshes. Those by kubelet, container and pod are those of package podtokens.
const (
	ByKubelet   = Refresh(podtokens.ByKubelet)
	ByContainer = Refresh(podtokens.ByContainer)
	ByPod       = Refresh(podtokens.ByPod)
	// BySecret means that its Secret is signed again, and that all who use it get the new one from there.
	BySecret Refresh = "Secret"
	// Replaced means that the holder has got a newer one already. This one lives until it expires.
	Replaced Refresh = "Replaced"
	// Never means that its holder keeps it until it expires, or until the pod ends that is ending.
	Never = Refresh(podtokens.Never)
)

// Input is what there is to add up.
type Input struct {
	// Keys are the stored key versions, ascending.
	Keys []Key
	// Signers are the API servers and what their ledgers report.
	Signers []Signer
	// Pods are all pods that exist, also those that have ended.
	Pods []Pod
	// Secrets are those that hold legacy tokens.
	Secrets []Secret
	// Audiences are those of the API server.
	Audiences []string
	// Canary is the account for which API servers issue tokens to prove themselves, which nobody uses.
	Canary types.NamespacedName
	// MaxLife is the longest life that API servers give a token.
	MaxLife time.Duration
	Now     time.Time
}

// Key is a key version.
type Key struct {
	Version int
	ID      string
	// From is when tokens may have been signed with it first; zero when not known.
	From time.Time
}

// Signer is an API server that issues tokens.
type Signer struct {
	Name string
	// Report is what its ledger has, unless Problem is why it has none, in words.
	Report  ledger.Report
	Problem string
}

// Pod is a pod and what it holds.
type Pod struct {
	Namespace, Name, UID string
	// Account is the name of its ServiceAccount.
	Account string
	// Workload is what made it, like Deployment/web.
	Workload string
	Tokens   []podtokens.Token
}

// Secret is one that holds a legacy token.
type Secret struct {
	Namespace, Name, Account string
	// KeyID is the kid of its token; empty if it holds none.
	KeyID string
	// LastUsed is the day on which the token was used last, like 2026-11-26; empty when not known.
	LastUsed string
}

// Row counts tokens that are alike.
type Row struct {
	// Namespace and Account are whose the tokens are; empty in a row that stands for several.
	Namespace, Account string
	// Workload is who holds them, or the Secret of a legacy token that no pod holds; empty when no pod is known to.
	Workload string
	Kind     Kind
	// Audience is who they are for; empty for the API server.
	Audience string
	// Version is that of their key; 0 when not known.
	Version int
	Refresh Refresh
	// LastUsed is the day on which a legacy token that no pod holds was used last.
	LastUsed string
	// Count is how many there are. All tokens with the same account, audiences and object are one.
	Count int
	// Expires is when the last of them expires; zero when not known, or never.
	Expires time.Time
}

// Gap is what one signer cannot tell of the tokens of one key version.
type Gap struct {
	Signer  string
	Version int
	// Reason is why, in words.
	Reason string
	// Until is when all of these tokens have expired; zero when not known.
	Until time.Time
}

// Report is what Sum has found.
type Report struct {
	// Rows are in the order of urgency: see Fold.
	Rows []Row
	Gaps []Gap

	now time.Time
}

// Sum adds up.
func Sum(in Input) Report {
	s := newSum(in)
	for _, e := range s.merged() {
		s.entry(e)
	}
	s.untold()
	s.secrets()
	return Report{Rows: sorted(s.rows), Gaps: s.gaps, now: in.Now}
}
