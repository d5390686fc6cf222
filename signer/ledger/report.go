package ledger

import "time"

// Report is what a signer knows of the tokens that it signed and that have not expired.
type Report struct {
	// Since is when the ledger began: tokens that were signed before are not in it.
	Since time.Time `json:"since"`
	// Entries are the tokens that have not expired, those of one subject, bound object and set of audiences together.
	Entries []Entry `json:"entries"`
}

// Entry stands for all tokens of one key that have the same account, audiences and bound object.
//
// When a ledger is full, it gives up the bound object first, then the audiences and the account, then the namespace. What
// it gave up is empty, so an entry never claims less than there is.
type Entry struct {
	// KeyID is the kid of the key that signed them.
	KeyID string `json:"keyID"`
	// Namespace and ServiceAccount are the account of the tokens.
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Audiences are in ascending order.
	Audiences []string `json:"audiences,omitempty"`
	// Bound is the object that the tokens are bound to; nil when they are bound to none.
	Bound *Object `json:"bound,omitempty"`
	// Coarse means that the ledger was full, and that the entry may stand for several accounts, audiences or objects.
	Coarse bool `json:"coarse,omitempty"`
	// Expires is when the last of them expires.
	Expires time.Time `json:"expires"`
}

// Object is what a token is bound to: a Pod, Secret or Node.
type Object struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	UID  string `json:"uid"`
}
