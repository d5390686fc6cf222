package legacytoken

import (
	"fmt"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// MaxNamed is how many objects of a kind a Result names at most.
const MaxNamed = 20

// Result is what a walk over the legacy tokens has seen and done so far.
type Result struct {
	// Total is the number of Secrets of the type that it met, without those that were deleted meanwhile.
	Total int
	// Stale is how many of them still hold a token that is not of the target's key.
	Stale int
	// Resigned is how many it met with another token and changed to one of the target's key.
	Resigned int
	// Pending is how many hold no token yet: kube-controller-manager signs for them, with its own key.
	Pending int
	// Blocked names Secrets that are Stale, or keep becoming so, and why; at most MaxNamed.
	Blocked []Problem
	// Notified is how many pods were made to project a new token.
	Notified int
	// Copied is how many pods hold a dead token that they copied when they started, and Copies names at most MaxNamed
	// of them. Only pods that the walk had to read are counted.
	Copied int
	Copies []Copy
	// Complete means that the walk has ended.
	Complete bool
}

// Proven reports whether this walk went over all Secrets, found only tokens of the target's key, and changed none.
func (r Result) Proven() bool { return r.Complete && r.Stale == 0 && r.Resigned == 0 }

// Reason is why a Secret keeps a token of another key.
type Reason string

// The reasons.
const (
	// Immutable: the Secret is marked immutable, which cannot be undone.
	Immutable Reason = "Immutable"
	// Refused: the API server, or an admission webhook behind it, refuses the write.
	Refused Reason = "Refused"
	// Orphaned: it is of an earlier ServiceAccount of the same name; kube-controller-manager deletes such Secrets.
	Orphaned Reason = "Orphaned"
	// Unanswered: an admission webhook, or the API server itself, does not answer. The next walk tries again.
	Unanswered Reason = "Unanswered"
	// WrittenBack: somebody else restores another token after each write.
	WrittenBack Reason = "WrittenBack"
	// Failed: the write failed repeatedly. The next walk tries again.
	Failed Reason = "Failed"
)

// Problem is a Secret that keeps a token of another key.
type Problem struct {
	Namespace, Name string
	Reason          Reason
	// Detail is what the API server said, what is missing, or who wrote it; empty if Reason is enough.
	Detail string
	// Lasting means that there were such problems in each of the last passes.
	Lasting bool
}

// NeedsAction reports whether it persists until somebody acts.
func (p Problem) NeedsAction() bool { return !p.mayPass() || p.Lasting }

// mayPass reports whether it is of a kind that often resolves itself.
func (p Problem) mayPass() bool {
	return p.Reason == Orphaned || p.Reason == Unanswered || p.Reason == Failed
}

// String names the Secret and what to do.
func (p Problem) String() string {
	secret := fmt.Sprintf("Secret %s/%s ", p.Namespace, p.Name)
	switch p.Reason {
	case Immutable:
		return secret + "is immutable, so its token cannot be re-signed: delete it, and create it again without `immutable`"
	case Refused:
		return secret + "must not be written: " + p.Detail
	case Unanswered:
		return secret + "could not be written, and is tried again: " + p.Detail
	case WrittenBack:
		return secret + "gets an old token back each time that it was re-signed, from field manager " + p.Detail +
			": have that tool leave data.token of the Secret alone"
	case Orphaned:
		return secret + "is left over from " + p.Detail + ": kube-controller-manager is to delete it"
	}
	return secret + "could not be written, and is tried again: " + p.Detail
}

// Copy is a pod that copied a legacy token when it started: it must restart to get another.
type Copy struct {
	Namespace, Pod, Secret string
	By                     podtokens.Way
}

// String names the pod and what to do.
func (c Copy) String() string {
	return fmt.Sprintf("pod %s/%s uses the token of Secret %s by %s: restart it once the token is re-signed",
		c.Namespace, c.Pod, c.Secret, c.By)
}

// named appends to a list of names, up to a limit.
func named[T any](list []T, item T) []T {
	if len(list) >= MaxNamed {
		return list
	}
	return append(list, item)
}
