package tokens

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

// clockSlack is how far the clocks of API servers may be apart.
const clockSlack = 5 * time.Second

// Unmanaged are the nodes that Keyturn did not make. It neither replaces them nor reads the tokens of their pods, but
// the API shows how old these pods are: a pod that was created once every API server signed with the new key has no
// older token. So such a node counts as one of the new key version when it has no older pod with a token.
type Unmanaged struct {
	// Nodes are the Node objects.
	Nodes []*corev1.Node
	// Since is when all API servers were known to sign with the new key; zero while that is not noted.
	Since time.Time
	// Outdated are the pods with tokens that are older than that, by node.
	Outdated map[string][]string
}

// keyVersion is one that no token of a pod on the node is older than.
func (u Unmanaged) keyVersion(node string, keys nodes.Keys) int {
	switch {
	case keys.Old == 0:
		return keys.Next // every older token is refused, so nobody holds one
	case u.Since.IsZero() || len(u.Outdated[node]) > 0:
		return keys.Old
	default:
		return keys.Next
	}
}

// plan is what to do now about the nodes that Keyturn did not make.
func (u Unmanaged) plan(keys nodes.Keys) []Chain {
	if len(u.Nodes) == 0 || keys.Old == 0 || !u.Since.IsZero() {
		return nil
	}
	return []Chain{{{Step: Note}}}
}

// reasons are what these nodes wait for.
func (u Unmanaged) reasons(keys nodes.Keys) []nodes.Reason {
	var out []nodes.Reason
	for _, n := range u.Nodes {
		pods := u.Outdated[n.Name]
		if keys.Old == 0 || len(pods) == 0 {
			continue
		}
		out = append(out, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
			"%s to be deleted%s, which may hold a token older than key version %d: "+
				"Keyturn did not make the node, and cannot read it",
			pods[0], andMore(pods), keys.Next)})
	}
	return out
}

// predates reports whether a pod may hold a token from before a time.
func predates(pod *corev1.Pod, since time.Time) bool {
	return len(tokenMounts(pod)) > 0 && !pod.CreationTimestamp.After(since.Add(clockSlack))
}
