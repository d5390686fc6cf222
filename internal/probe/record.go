package probe

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Kind is a kind of token.
type Kind string

// The kinds of tokens that a probe uses.
const (
	Bound      Kind = "bound"       // a projected token for the API server
	Legacy     Kind = "legacy"      // a mounted token of a Secret
	ThirdParty Kind = "third-party" // a projected token for another audience, checked by TokenReview
	// WorkloadIdentity is a projected token for the fleet's workload identity pool. It is exchanged for an access token
	// at the STS, which is then used. It is only used if it is configured.
	WorkloadIdentity Kind = "workload-identity"
)

// kinds are all kinds, in the order of reports.
func kinds() []Kind { return []Kind{Bound, Legacy, ThirdParty, WorkloadIdentity} }

// optional reports whether a kind is not used everywhere. Only reports with a line of it expect it.
func (k Kind) optional() bool { return k == WorkloadIdentity }

// apiServerKinds are the kinds that are used at each API server.
func apiServerKinds() []Kind { return slices.DeleteFunc(kinds(), Kind.optional) }

// result is the result of using a token.
type result string

// The results of using a token. Unavailable says nothing about the token.
const (
	accepted    result = "accepted"
	refused     result = "refused"
	unavailable result = "unavailable"
	// overwritten is a refusal of a legacy token that its Secret no longer holds: the file is behind.
	overwritten result = "overwritten"
)

// use is one use of a token at one server.
type use struct {
	Kind Kind
	// Server is the URL of the API server, or of the STS, by scheme and host.
	Server string
	// KeyID is the kid of the token; empty if it has none.
	KeyID  string
	Result result
	// Reason is why it was not accepted. It never contains a token.
	Reason string
	// At is when the answer came.
	At time.Time
}

// Counts are uses by result.
type Counts struct {
	Accepted int64 `json:"accepted"`
	Refused  int64 `json:"refused"`
	// Overwritten counts those in Refused with a legacy token that its Secret no longer held.
	Overwritten int64 `json:"overwritten,omitempty"`
	Unavailable int64 `json:"unavailable"`
}

// Requests is the number of all uses.
func (c Counts) Requests() int64 { return c.Accepted + c.Refused + c.Unavailable }

func (c *Counts) add(o Counts) {
	c.Accepted += o.Accepted
	c.Refused += o.Refused
	c.Overwritten += o.Overwritten
	c.Unavailable += o.Unavailable
}

func (c *Counts) count(r result) {
	switch r {
	case accepted:
		c.Accepted++
	case refused:
		c.Refused++
	case overwritten:
		c.Refused++
		c.Overwritten++
	case unavailable:
		c.Unavailable++
	}
}

// Spell is a period in which a server refused a kind of token: from the first refusal to the next acceptance.
type Spell struct {
	// KeyID is the kid of the first token that was refused.
	KeyID string    `json:"keyID"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// End is when the token in the file was accepted again; zero until then.
	End      time.Time `json:"end,omitzero"`
	Refusals int64     `json:"refusals"`
	Reason   string    `json:"reason,omitempty"`
	// StaleFile means that the first refused token had just been replaced in the file: reading the file again and
	// retrying succeeded at once.
	StaleFile bool `json:"staleFile,omitempty"`
}

// Seconds returns how long the spell lasted, as far as is known.
func (s Spell) Seconds() float64 {
	if s.End.IsZero() {
		return s.Last.Sub(s.First).Seconds()
	}
	return s.End.Sub(s.First).Seconds()
}

// maxSpells is how many spells a line keeps, the longest ones.
const maxSpells = 20

// Line is all uses of one kind of token at one server: an API server or, for workload identity, the STS.
type Line struct {
	Kind   Kind   `json:"token"`
	Server string `json:"server"`
	// KeyIDs counts uses by kid.
	KeyIDs map[string]Counts `json:"keyIDs"`
	// Spells are the longest stale spells, in order of time.
	Spells []Spell `json:"spells,omitempty"`
	// StaleSeconds is how long the longest spell lasted.
	StaleSeconds float64 `json:"staleSeconds"`
	// UnavailableReason is the reason of the last use without an answer about the token.
	UnavailableReason string `json:"unavailableReason,omitempty"`
}

// Counts adds up the uses of all kids.
func (l Line) Counts() Counts {
	var sum Counts
	for _, c := range l.KeyIDs {
		sum.add(c)
	}
	return sum
}

// Report is what one probe observed since it started.
type Report struct {
	Pod  string `json:"pod"`
	Node string `json:"node,omitempty"`
	// Workload is how the pod gets its tokens.
	Workload  Workload  `json:"workload,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	// Ended means that the probe was stopped and this is its last report.
	Ended bool `json:"ended,omitempty"`
	// Mounted is the kid of each token that was in its file at the last use, which is now while the probe runs.
	Mounted map[Kind]string `json:"mounted"`
	// Held are the claims of these tokens, except of tokens without claims.
	Held map[Kind]Held `json:"held"`
	// FileLag is how long the file of the legacy token lagged behind its Secret.
	FileLag FileLag `json:"fileLag"`
	Lines   []Line  `json:"lines"`
}

// Held identifies a token of a pod, for comparison with a signer's ledger.
type Held struct {
	KeyID     string    `json:"keyID"`
	Subject   string    `json:"subject"`
	Audiences []string  `json:"audiences,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	// PodName and PodUID are of the pod that it is bound to; empty for a legacy token.
	PodName string `json:"podName,omitempty"`
	PodUID  string `json:"podUID,omitempty"`
}

// FileLag is how long the file of a mounted legacy token lagged behind its Secret, at each change of the Secret.
type FileLag struct {
	Changes    int64   `json:"changes"`
	MaxSeconds float64 `json:"maxSeconds"`
}

type lineKey struct {
	kind   Kind
	server string
}

// recorder counts uses. It is safe for concurrent use.
type recorder struct {
	mu     sync.Mutex
	report Report
	lines  map[lineKey]*Line
	lag    lag
}

// newRecorder returns a recorder of a pod that starts now.
func newRecorder(pod, node string, now time.Time) *recorder {
	return &recorder{
		report: Report{
			Pod: pod, Node: node, StartedAt: now, UpdatedAt: now, Mounted: map[Kind]string{}, Held: map[Kind]Held{},
		},
		lines: map[lineKey]*Line{},
	}
}

// expect records that a kind of token will be used at a server. Until it is accepted there, it counts as unused.
func (r *recorder) expect(kind Kind, server string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line(kind, server)
}

// record counts a use.
func (r *recorder) record(u use) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.line(u.Kind, u.Server)
	counts := l.KeyIDs[u.KeyID]
	counts.count(u.Result)
	l.KeyIDs[u.KeyID] = counts
	r.report.UpdatedAt = u.At
	switch u.Result {
	case accepted:
		l.accepted(u)
	case refused, overwritten:
		l.refused(u)
	case unavailable:
		l.UnavailableReason = u.Reason
	}
}

// recordStaleFile records that a refusal was followed by the success of another token, which the file held by then.
func (r *recorder) recordStaleFile(kind Kind, server string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.line(kind, server)
	if n := len(l.Spells); n > 0 && l.Spells[n-1].End.IsZero() {
		l.Spells[n-1].StaleFile = l.Spells[n-1].Refusals == 1
	}
}

// mounted records the kid of the token that is in its file now.
func (r *recorder) mounted(kind Kind, keyID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Mounted[kind] = keyID
}

// holds records the claims of the token that is in its file now.
func (r *recorder) holds(kind Kind, h Held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Held[kind] = h
}

// snapshot returns a copy of everything that was recorded.
func (r *recorder) snapshot() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.report
	out.Mounted = maps.Clone(r.report.Mounted)
	out.Held = maps.Clone(r.report.Held)
	for _, l := range r.lines {
		c := *l
		c.KeyIDs = maps.Clone(l.KeyIDs)
		c.Spells = slices.Clone(l.Spells)
		out.Lines = append(out.Lines, c)
	}
	slices.SortFunc(out.Lines, func(a, b Line) int {
		return cmp.Or(
			cmp.Compare(slices.Index(kinds(), a.Kind), slices.Index(kinds(), b.Kind)),
			cmp.Compare(a.Server, b.Server),
		)
	})
	return out
}

// ready reports whether every kind of token in use was accepted somewhere.
func (r *recorder) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	accepted := map[Kind]bool{}
	for p, l := range r.lines {
		accepted[p.kind] = accepted[p.kind] || l.Counts().Accepted > 0
	}
	return !slices.ContainsFunc(kinds(), func(k Kind) bool {
		yes, used := accepted[k]
		return !yes && (used || slices.Contains(r.report.Workload.kinds(), k))
	})
}

func (r *recorder) line(kind Kind, server string) *Line {
	p := lineKey{kind: kind, server: server}
	if r.lines[p] == nil {
		r.lines[p] = &Line{Kind: kind, Server: server, KeyIDs: map[string]Counts{}}
	}
	return r.lines[p]
}

// accepted ends a spell.
func (l *Line) accepted(u use) {
	n := len(l.Spells)
	if n == 0 || !l.Spells[n-1].End.IsZero() {
		return
	}
	l.Spells[n-1].End = u.At
	l.measure()
	l.trim()
}

// refused begins a spell, or extends it.
func (l *Line) refused(u use) {
	n := len(l.Spells)
	if n == 0 || !l.Spells[n-1].End.IsZero() {
		l.Spells = append(l.Spells, Spell{KeyID: u.KeyID, First: u.At, Reason: u.Reason})
		n++
	}
	l.Spells[n-1].Last = u.At
	l.Spells[n-1].Refusals++
	l.measure()
}

func (l *Line) measure() {
	l.StaleSeconds = max(l.StaleSeconds, l.Spells[len(l.Spells)-1].Seconds())
}

// trim drops the shortest spell if there are too many.
func (l *Line) trim() {
	if len(l.Spells) <= maxSpells {
		return
	}
	shortest := 0
	for i, s := range l.Spells {
		if s.Seconds() < l.Spells[shortest].Seconds() {
			shortest = i
		}
	}
	l.Spells = slices.Delete(l.Spells, shortest, shortest+1)
}
