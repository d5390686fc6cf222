package ledger

import "time"

// Leeway is how long after its expiry kube-apiserver still accepts a token, since clocks may differ.
const Leeway = time.Minute

// Report lists the tokens of one signer that API servers may still accept.
type Report struct {
	// Since is since when the ledger is complete: tokens that were signed earlier may be missing. For about a minute
	// after a ledger began, Since is in the future, because another signer may still be finishing calls.
	Since time.Time `json:"since"`
	// Entries are the tokens that have not expired, or expired at most Leeway ago. Tokens of one account, bound object
	// and set of audiences share an entry.
	Entries []Entry `json:"entries"`
}

// Entry stands for all tokens of one key that have the same account, audiences and bound object.
//
// When a ledger is full, it drops details: first the bound object, then the audiences and the account name, then the
// namespace. A dropped detail is empty, so an entry never covers fewer tokens than there are.
type Entry struct {
	// KeyID is the kid of the key that signed them. It is empty for tokens of further keys once the ledger has 64.
	KeyID string `json:"keyID,omitempty"`
	// Namespace and ServiceAccount are the account of the tokens.
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Audiences are in ascending order.
	Audiences []string `json:"audiences,omitempty"`
	// Bound is the object that the tokens are bound to; nil if there is none.
	Bound *Object `json:"bound,omitempty"`
	// Coarse means that the entry may stand for several accounts, audiences or objects, because the ledger was full or
	// could not read them.
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
