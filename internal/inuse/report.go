package inuse

import (
	"fmt"
	"time"

	"github.com/keyturn/keyturn/signer/ledger"
)

// Count is the number of tokens of one kind.
type Count struct {
	Kind  Kind
	Count int
	// Expires is when the last of them expires; zero if unknown or never.
	Expires time.Time
}

// Of counts the tokens of a key version by kind, in the order of Kinds. A Gap counts as one token of kind Unknown.
func (r Report) Of(version int) []Count {
	of := map[Kind]*tally{}
	add := func(kind Kind, count int, expires time.Time) {
		if of[kind] == nil {
			of[kind] = &tally{}
		}
		of[kind].add(count, expires)
	}
	for _, row := range r.Rows {
		if row.Version == version {
			add(row.Kind, row.Count, row.Expires)
		}
	}
	for _, g := range r.gapsOf(version) {
		add(Unknown, 1, g.Until)
	}
	var counts []Count
	for _, kind := range Kinds {
		if t := of[kind]; t != nil {
			counts = append(counts, Count{kind, t.count, t.latest()})
		}
	}
	return counts
}

func (r Report) gapsOf(version int) []Gap {
	var gaps []Gap
	for _, g := range r.Gaps {
		if g.Version == version {
			gaps = append(gaps, g)
		}
	}
	return gaps
}

// Gone returns when certainly no API server accepts any more a token of a key version that no step of a rotation
// replaces; zero if unknown.
func (r Report) Gone(version int) time.Time {
	gone := r.now
	for _, c := range r.Of(version) {
		switch {
		case !c.Kind.awaited():
		case c.Expires.IsZero():
			return time.Time{}
		case c.Expires.Add(ledger.Leeway).After(gone):
			gone = c.Expires.Add(ledger.Leeway)
		}
	}
	return gone
}

// Awaited describes the valid tokens of a key version that no step of a rotation replaces; empty if there are none.
func (r Report) Awaited(version int) string {
	text := r.known(version)
	if gaps := r.gapsOf(version); len(gaps) > 0 {
		text = join(text, fmt.Sprintf("any tokens that API server %s did not record (%s)", gaps[0].Signer, gaps[0].Reason))
	} else if n := r.count(version, Unknown); n > 0 {
		text = join(text, plural(n, "group")+" of tokens without details in the ledgers")
	}
	if text == "" {
		return ""
	}
	if gone := r.Gone(version); !gone.IsZero() {
		return text + " to expire, the last at " + stamp(gone.Add(-ledger.Leeway))
	}
	return text + " to expire"
}

// known describes the awaited tokens of a key version that can be counted.
func (r Report) known(version int) string {
	requested, thirdParty := r.count(version, Requested), r.count(version, ThirdParty)
	of := fmt.Sprintf(" of key version %d", version)
	switch {
	case requested > 0 && thirdParty > 0:
		return fmt.Sprintf("%d requested and ", requested) + plural(thirdParty, "third-party token") + of
	case requested > 0:
		return plural(requested, "requested token") + of
	case thirdParty > 0:
		return plural(thirdParty, "third-party token") + of
	}
	return ""
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", and " + b
}

func (r Report) count(version int, kind Kind) int {
	for _, c := range r.Of(version) {
		if c.Kind == kind {
			return c.Count
		}
	}
	return 0
}

// Others is the Workload of a row that stands for several.
const Others = "others"

// Fold returns the most urgent rows, and the sums of the rest by kind, key version and refresh, so that there are at
// most that many rows; about a hundred are needed for the sums alone. It omits nothing.
func Fold(rows []Row, most int) []Row {
	if len(rows) <= most {
		return rows
	}
	keep := max(0, most-sums(rows))
	rest := map[Row]*tally{}
	for _, row := range rows[keep:] {
		like := Row{Workload: Others, Kind: row.Kind, Version: row.Version, Refresh: row.Refresh}
		if rest[like] == nil {
			rest[like] = &tally{}
		}
		rest[like].add(row.Count, row.Expires)
	}
	return append(rows[:keep:keep], sorted(rest)...)
}

// sums returns how many rows are left if all are added up.
func sums(rows []Row) int {
	alike := map[Row]bool{}
	for _, row := range rows {
		alike[Row{Kind: row.Kind, Version: row.Version, Refresh: row.Refresh}] = true
	}
	return len(alike)
}
