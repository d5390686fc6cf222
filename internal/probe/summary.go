package probe

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Summary is the sum of the reports of all pods that ever ran.
type Summary struct {
	// Pods is how many pods wrote reports.
	Pods int `json:"pods"`
	// Tokens are all kinds but those that are optional and in no report.
	Tokens []TokenUses `json:"tokens"`
	// FileLag is the sum of changes and the longest lag of all pods.
	FileLag FileLag `json:"fileLag"`
}

// TokenUses is all uses of a kind of token, everywhere.
type TokenUses struct {
	Kind        Kind  `json:"token"`
	Requests    int64 `json:"requests"`
	Refused     int64 `json:"refused"`
	Unavailable int64 `json:"unavailable"`
	// StaleSeconds is how long the longest stale spell lasted.
	StaleSeconds float64 `json:"staleSeconds"`
	// Accepted counts accepted uses by kid, and RefusedKeyIDs refused ones.
	Accepted      map[string]int64 `json:"accepted"`
	RefusedKeyIDs map[string]int64 `json:"refusedKeyIDs,omitempty"`
}

// Summarize adds up reports.
func Summarize(reports []Report) Summary {
	var s Summary
	pods := map[string]bool{}
	byKind := map[Kind]*TokenUses{}
	for _, k := range Kinds() {
		if !k.optional() || slices.ContainsFunc(reports, func(r Report) bool { return r.has(k) }) {
			byKind[k] = &TokenUses{Kind: k, Accepted: map[string]int64{}, RefusedKeyIDs: map[string]int64{}}
		}
	}
	for _, r := range reports {
		pods[r.Pod] = true
		s.FileLag.Changes += r.FileLag.Changes
		s.FileLag.MaxSeconds = max(s.FileLag.MaxSeconds, r.FileLag.MaxSeconds)
		for _, l := range r.Lines {
			if t := byKind[l.Kind]; t != nil {
				t.add(l)
			}
		}
	}
	s.Pods = len(pods)
	for _, k := range Kinds() {
		if t := byKind[k]; t != nil {
			s.Tokens = append(s.Tokens, *t)
		}
	}
	return s
}

// has says that the probe uses a kind of token, whatever came of it.
func (r Report) has(k Kind) bool {
	return slices.ContainsFunc(r.Lines, func(l Line) bool { return l.Kind == k })
}

func (t *TokenUses) add(l Line) {
	c := l.Counts()
	t.Requests += c.Requests()
	t.Refused += c.Refused
	t.Unavailable += c.Unavailable
	t.StaleSeconds = max(t.StaleSeconds, l.StaleSeconds)
	for kid, n := range l.KeyIDs {
		if n.Accepted > 0 {
			t.Accepted[kid] += n.Accepted
		}
		if n.Refused > 0 {
			t.RefusedKeyIDs[kid] += n.Refused
		}
	}
}

// Unused returns the kinds of tokens that were never accepted: about these the summary proves nothing.
func (s Summary) Unused() []Kind {
	var out []Kind
	for _, t := range s.Tokens {
		if len(t.Accepted) == 0 {
			out = append(out, t.Kind)
		}
	}
	return out
}

// Failed says that a token was refused that never may be: one of any kind but legacy.
func (s Summary) Failed() bool {
	return slices.ContainsFunc(s.Tokens, func(t TokenUses) bool { return t.Kind != Legacy && t.Refused > 0 })
}

// Print writes the summary as a table.
func (s Summary) Print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TOKEN\tREQUESTS\tREFUSED\tUNAVAILABLE\tLONGEST STALE\tKEYS SEEN")
	for _, t := range s.Tokens {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.1fs\t%s\n",
			t.Kind, t.Requests, t.Refused, t.Unavailable, t.StaleSeconds, shortKeyIDs(t.Accepted))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	_, err := fmt.Fprintf(w, "%d pods; the mounted legacy token changed %d times, its file at most %.1fs after its Secret\n",
		s.Pods, s.FileLag.Changes, s.FileLag.MaxSeconds)
	if err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// shortKeyIDs lists kids by their first characters, as people tell them apart.
func shortKeyIDs(uses map[string]int64) string {
	const short = 8
	var out []string
	for _, kid := range slices.Sorted(maps.Keys(uses)) {
		out = append(out, kid[:min(short, len(kid))])
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}
