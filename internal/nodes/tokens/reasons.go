package tokens

import (
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// Reasons returns what the replacement of tokens waits for, by node. It does not include what a machine that is not
// ready waits for.
func (e *Executor) Reasons(s *Observed) []nodes.Reason {
	var out []nodes.Reason
	for _, v := range s.Views {
		if v.Refreshing() && v.Ready {
			out = append(out, reasons(v, e.Policy, e.Now)...)
		}
	}
	return append(out, toFollow(s.Views)...)
}

// reasons returns what a node waits for whose pods should get new tokens.
func reasons(v View, p Policy, now time.Time) []nodes.Reason {
	out := slices.Clip(v.Held.Stuck)
	add := func(blocked bool, format string, args ...any) []nodes.Reason {
		return append(out, nodes.Reason{Words: fmt.Sprintf(format, args...), Blocked: blocked})
	}
	inPlace := p.How == v1alpha1.NodeRefreshInPlace
	late := now.Sub(v.Refresh.Since) > minWait
	switch {
	case inPlace && v.Refresh.Kubelet.IsZero():
		return add(late, "the kubelet of node %s to be started again", v.Name)
	case !v.Held.Known:
		return add(false, "the tokens on node %s to be readable: %s", v.Name, v.Held.Trouble)
	case len(v.Held.Old) > 0:
		return append(out, oldTokens(v, inPlace, now))
	case inPlace && !v.Heard:
		return add(late, "the kubelet of node %s to report", v.Name)
	case !v.renewed(p, now):
		return add(false, "pods that were just starting on node %s to have no old token, which is certain at %s",
			v.Name, stamp(v.Refresh.Since.Add(minWait)))
	case now.Before(v.reloaded(p, now)):
		return add(false, "the applications on node %s to read their new tokens, which is certain at %s",
			v.Name, stamp(v.reloaded(p, now)))
	case len(out) == 0:
		return add(false, "node %s to count as one of key version %d", v.Name, v.Refresh.KeyVersion)
	default:
		return out
	}
}

// oldTokens describes a pod on a node that has an old token, and when it will have none.
func oldTokens(v View, inPlace bool, now time.Time) nodes.Reason {
	old := v.Held.Old
	words := fmt.Sprintf("%s to get a token of key version %d%s", old[0], v.Refresh.KeyVersion, andMore(old))
	switch {
	case inPlace && now.Sub(v.Refresh.Kubelet) > minWait, !inPlace && now.Sub(v.Held.RenewedBy) > nodes.Patience:
		words += ", which is overdue: read the events of the pod and the log of the kubelet"
		return nodes.Reason{Words: words, Blocked: true}
	case inPlace:
		return nodes.Reason{Words: words}
	default:
		return nodes.Reason{Words: words + ", which is certain by " + stamp(v.Held.RenewedBy)}
	}
}

// toFollow counts the nodes whose tokens will be replaced after others.
func toFollow(views []View) []nodes.Reason {
	to, n := 0, 0
	for _, v := range views {
		if v.Refreshing() {
			to = max(to, v.Refresh.KeyVersion)
		}
	}
	for _, v := range views {
		if v.KeyVersion < to && v.Refresh.KeyVersion < to {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return []nodes.Reason{{Words: fmt.Sprintf("%d more of the nodes to get their turn", n)}}
}

// andMore counts those that are not named.
func andMore(names []string) string {
	if len(names) == 1 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", len(names)-1)
}

func stamp(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
