// Package inuse determines which service account tokens of a cluster are valid, who holds them, and what replaces them.
//
// Start with Sum. It is pure: it joins the reports of the signers' ledgers (package signer/ledger), the tokens that
// pods hold (package podtokens) and the content of Secrets. A token that is bound to a deleted pod counts as dead,
// since API servers refuse it. What is unknown is a Gap, and never counts as nothing.
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
	// Bound is a token for the API server that a pod's spec requests.
	Bound = Kind(podtokens.Bound)
	// ThirdParty is a token of an existing pod for another audience.
	ThirdParty = Kind(podtokens.ThirdParty)
	// Legacy is a token in a Secret.
	Legacy = Kind(podtokens.Legacy)
	// Requested is a token that somebody requested outside of pod specs: kubectl create token, CI systems.
	Requested Kind = "Requested"
	// Unknown is a token for which a ledger lacks details.
	Unknown Kind = "Unknown"
)

// Kinds are all kinds, the least known first.
var Kinds = []Kind{Unknown, Requested, ThirdParty, Legacy, Bound}

// awaited reports whether no step of a rotation replaces tokens of a kind, so that they are valid until they expire.
func (k Kind) awaited() bool { return k == Unknown || k == Requested || k == ThirdParty }

// Refresh is what gives the holder of a token one of the next key.
type Refresh string

// The refreshes. Package podtokens defines ByKubelet, ByContainer and ByPod.
const (
	ByKubelet   = Refresh(podtokens.ByKubelet)
	ByContainer = Refresh(podtokens.ByContainer)
	ByPod       = Refresh(podtokens.ByPod)
	// BySecret means that its Secret is signed again, and that all users get the new token from there.
	BySecret Refresh = "Secret"
	// Replaced means that the holder already has a newer one. This one is valid until it expires.
	Replaced Refresh = "Replaced"
	// Never means that its holder keeps it until it expires, or until its terminating pod ends.
	Never = Refresh(podtokens.Never)
)

// Input is the input of Sum.
type Input struct {
	// Keys are the stored key versions, ascending.
	Keys []Key
	// Signers are the API servers and what their ledgers report.
	Signers []Signer
	// Pods are all existing pods, including those that have ended.
	Pods []Pod
	// Secrets are those that hold legacy tokens.
	Secrets []Secret
	// Audiences are the audiences of the API server.
	Audiences []string
	// Canary is the account that API servers issue tokens for to prove themselves; nobody uses these.
	Canary types.NamespacedName
	// MaxLife is the longest life that API servers give a token.
	MaxLife time.Duration
	Now     time.Time
}

// Key is a key version.
type Key struct {
	Version int
	ID      string
	// From is when tokens may first have been signed with it; zero if unknown.
	From time.Time
}

// Signer is an API server that issues tokens.
type Signer struct {
	Name string
	// Report is the content of its ledger. If it has none, Problem is why.
	Report  ledger.Report
	Problem string
}

// Pod is a pod and the tokens that it holds.
type Pod struct {
	Namespace, Name, UID string
	// Account is the name of its ServiceAccount.
	Account string
	// Workload is what created it, such as Deployment/web.
	Workload string
	Tokens   []podtokens.Token
}

// Secret is one that holds a legacy token.
type Secret struct {
	Namespace, Name, Account string
	// KeyID is the kid of its token; empty if it holds none.
	KeyID string
	// LastUsed is the day on which the token was last used, such as 2026-11-26; empty if unknown.
	LastUsed string
}

// Row counts tokens that are alike.
type Row struct {
	// Namespace and Account are the account of the tokens; empty in a row that stands for several.
	Namespace, Account string
	// Workload holds them, or is the Secret of a legacy token that no pod holds; empty if no pod is known to.
	Workload string
	Kind     Kind
	// Audience is the audience of the tokens; empty for the API server.
	Audience string
	// Version is the version of their key; 0 if unknown.
	Version int
	Refresh Refresh
	// LastUsed is the day on which a legacy token that no pod holds was last used.
	LastUsed string
	// Count is their number. All tokens with the same account, audiences and object count as one.
	Count int
	// Expires is when the last of them expires; zero if unknown or never.
	Expires time.Time
}

// Gap describes tokens of one key version that one signer does not know.
type Gap struct {
	Signer  string
	Version int
	// Reason is why it does not.
	Reason string
	// Until is when all of these tokens have expired; zero if unknown.
	Until time.Time
}

// Report is the result of Sum.
type Report struct {
	// Rows are ordered by urgency: see Fold.
	Rows []Row
	Gaps []Gap

	now time.Time
}

// Sum adds up the tokens of in.
func Sum(in Input) Report {
	s := newSum(in)
	for _, e := range s.merged() {
		s.entry(e)
	}
	s.unlisted()
	s.secrets()
	return Report{Rows: sorted(s.rows), Gaps: s.gaps, now: in.Now}
}
