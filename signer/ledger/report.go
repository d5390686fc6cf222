package ledger

import "time"

// Leeway is how long after its expiry a kube-apiserver accepts a token: clocks may differ.
const Leeway = time.Minute

// Report is what a signer knows of the tokens that it signed and that API servers may still accept.
type Report struct {
	// Since is from when on the ledger is complete: tokens that were signed before may be missing. For a minute or so
	// after a ledger began, it lies ahead: another signer may be finishing what it does.
	Since time.Time `json:"since"`
	// Entries are the tokens that expired at most Leeway ago or have not expired, those of one account, bound object and
	// set of audiences together.
	Entries []Entry `json:"entries"`
}

// Entry stands for all tokens of one key that have the same account, audiences and bound object.
//
// When a ledger is full, it gives up the bound object first, then the audiences and the account, then the namespace.
// What it gave up is empty, so an entry never claims less than there is.
type Entry struct {
	// KeyID is the kid of the key that signed them. It is empty for tokens of any key that came when the ledger had 64
	// others.
	KeyID string `json:"keyID,omitempty"`
	// Namespace and ServiceAccount are the account of the tokens.
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Audiences are in ascending order.
	Audiences []string `json:"audiences,omitempty"`
	// Bound is the object that the tokens are bound to; nil when they are bound to none.
	Bound *Object `json:"bound,omitempty"`
	// Coarse means that the entry may stand for several accounts, audiences or objects, since the ledger was full or could
	// not read them.
	Coarse bool `json:"coarse,omitempty"`
	// Expires is when the last of them expires; in the year 4147 for tokens that never do.
	Expires time.Time `json:"expires"`
}

// Object is what a token is bound to: a Pod, Secret or Node.
type Object struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	UID  string `json:"uid"`
}
