package probe

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Summary adds up the reports of all pods that ever ran.
type Summary struct {
	// Pods is the number of pods that wrote reports.
	Pods int `json:"pods"`
	// Tokens are all kinds except optional ones that are in no report, followed by those of other workloads.
	Tokens []TokenUses `json:"tokens"`
	// FileLag is the sum of changes and the longest lag of all pods.
	FileLag FileLag `json:"fileLag"`
	// InUse is what running pods have mounted, by name.
	InUse []PodTokens `json:"inUse"`
}

// PodTokens is what one pod uses.
type PodTokens struct {
	Pod      string   `json:"pod"`
	Node     string   `json:"node,omitempty"`
	Workload Workload `json:"workload,omitempty"`
	// UpdatedAt is when it last used a token.
	UpdatedAt time.Time `json:"updatedAt"`
	// KeyIDs is the kid of its token of each kind; empty if the file holds no token with a kid.
	KeyIDs map[Kind]string `json:"keyIDs"`
}

// silence is how much longer than all others a pod may be silent and still count as running.
const silence = time.Minute

// TokenUses are all uses of a kind of token, everywhere.
type TokenUses struct {
	Kind Kind `json:"token"`
	// Workload is how the pods get the token.
	Workload Workload `json:"workload,omitempty"`
	Requests int64    `json:"requests"`
	Refused  int64    `json:"refused"`
	// Overwritten counts those in Refused with a legacy token that its Secret no longer held.
	Overwritten int64 `json:"overwritten,omitempty"`
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
	s.Tokens = expected(reports)
	pods := map[string]bool{}
	for _, r := range reports {
		pods[r.Pod] = true
		s.FileLag.Changes += r.FileLag.Changes
		s.FileLag.MaxSeconds = max(s.FileLag.MaxSeconds, r.FileLag.MaxSeconds)
		for _, l := range r.Lines {
			i := slices.IndexFunc(s.Tokens, func(t TokenUses) bool { return t.Kind == l.Kind && t.Workload == r.Workload })
			if i >= 0 {
				s.Tokens[i].add(l)
			}
		}
	}
	s.Pods = len(pods)
	s.InUse = inUse(reports)
	return s
}

// expected returns the tokens that reports should contain, without uses.
func expected(reports []Report) (tokens []TokenUses) {
	add := func(k Kind, w Workload) {
		tokens = append(tokens, TokenUses{
			Kind: k, Workload: w, Accepted: map[string]int64{}, RefusedKeyIDs: map[string]int64{},
		})
	}
	for _, k := range kinds() {
		if !k.optional() || slices.ContainsFunc(reports, func(r Report) bool { return r.has(k) }) {
			add(k, "")
		}
	}
	for _, w := range Workloads() {
		if !slices.ContainsFunc(reports, func(r Report) bool { return r.Workload == w }) {
			continue
		}
		for _, k := range w.kinds() {
			add(k, w)
		}
	}
	return tokens
}

// inUse returns what running pods have mounted: the last report of each, unless it has ended or is silent.
func inUse(reports []Report) []PodTokens {
	last := map[string]Report{}
	var newest time.Time
	for _, r := range reports {
		name := r.Pod + " " + string(r.Workload)
		if seen, ok := last[name]; !ok || r.StartedAt.After(seen.StartedAt) {
			last[name] = r
		}
		if r.UpdatedAt.After(newest) {
			newest = r.UpdatedAt
		}
	}
	out := []PodTokens{}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		if r := last[name]; !r.Ended && newest.Sub(r.UpdatedAt) <= silence {
			out = append(out, PodTokens{
				Pod: r.Pod, Node: r.Node, Workload: r.Workload, UpdatedAt: r.UpdatedAt, KeyIDs: r.Mounted,
			})
		}
	}
	return out
}

// has reports whether the probe uses a kind of token.
func (r Report) has(k Kind) bool {
	return slices.ContainsFunc(r.Lines, func(l Line) bool { return l.Kind == k })
}

func (t *TokenUses) add(l Line) {
	c := l.Counts()
	t.Requests += c.Requests()
	t.Refused += c.Refused
	t.Overwritten += c.Overwritten
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

// name returns the kind, with the workload in parentheses.
func (t TokenUses) name() string {
	if t.Workload == "" {
		return string(t.Kind)
	}
	return fmt.Sprintf("%s (%s)", t.Kind, t.Workload)
}

// Unused returns the kinds of tokens that were never accepted. The summary proves nothing about these.
func (s Summary) Unused() []Kind {
	var out []Kind
	for _, t := range s.Tokens {
		if len(t.Accepted) == 0 {
			out = append(out, t.Kind)
		}
	}
	return out
}

// Failed reports whether a token was refused that never may be. A legacy token that a pod has copied may be refused,
// and so may one in a mounted file, after its Secret was overwritten and until the file follows.
func (s Summary) Failed() bool {
	return slices.ContainsFunc(s.Tokens, func(t TokenUses) bool {
		return t.Refused > t.Overwritten && (t.Kind != Legacy || t.Workload == "")
	})
}

// Print writes the summary as a table.
func (s Summary) Print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TOKEN\tREQUESTS\tREFUSED\tUNAVAILABLE\tLONGEST STALE\tKEYS SEEN")
	for _, t := range s.Tokens {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.1fs\t%s\n",
			t.name(), t.Requests, t.Refused, t.Unavailable, t.StaleSeconds, shortKeyIDs(t.Accepted))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	_, err := fmt.Fprintf(w,
		"%d pods; the mounted legacy token changed %d times, its file at most %.1fs after its Secret\n",
		s.Pods, s.FileLag.Changes, s.FileLag.MaxSeconds)
	if err == nil {
		_, err = fmt.Fprintf(w, "in use by the %d running pods: %s\n", len(s.InUse), s.keysInUse())
	}
	if err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// keysInUse describes which keys signed the tokens in use, and how many pods have one of each.
func (s Summary) keysInUse() string {
	var out []string
	for _, kind := range kinds() {
		pods := map[string]int64{}
		for _, p := range s.InUse {
			if kid, ok := p.KeyIDs[kind]; ok {
				pods[kid]++
			}
		}
		for _, kid := range slices.Sorted(maps.Keys(pods)) {
			name := shortKeyIDs(map[string]int64{kid: 1})
			out = append(out, fmt.Sprintf("%s %s (%d)", kind, cmp.Or(name, "without a key ID"), pods[kid]))
		}
	}
	return cmp.Or(strings.Join(out, ", "), "-")
}

// shortKeyIDs lists kids by their first characters.
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
