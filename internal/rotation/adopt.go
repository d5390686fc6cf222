package rotation

import (
	"fmt"
	"slices"
	"strings"
)

// adopt stores the key that all API servers of an adopted cluster sign with. Nothing else is written before that, since
// tokens of this key are everywhere.
func adopt(o Observed) Decision {
	r := run{Observed: o}
	servers := slices.Collect(r.staying)
	if len(servers) == 0 {
		return Decision{Action: Action{Kind: Wait}, Waiting: "an API server to appear"}
	}
	for _, s := range servers {
		if s.SignsForeign == "" {
			why := fmt.Sprintf("API server %s to issue a token", s.Name)
			if s.Waiting != "" {
				why = fmt.Sprintf("API server %s: %s", s.Name, s.Waiting)
			}
			return Decision{Action: Action{Kind: Wait}, Waiting: why}
		}
	}
	first := servers[0]
	for _, s := range servers[1:] {
		if s.SignsForeign != first.SignsForeign {
			return Decision{Action: Action{Kind: Wait}, Blocked: true, Waiting: fmt.Sprintf(
				"API servers %s and %s sign with different keys (%s and %s): let all of them sign with one, and accept both "+
					"until then", first.Name, s.Name, first.SignsForeign, s.SignsForeign)}
		}
	}
	// A crash after the key is stored is harmless: the next plan finds every API server signing with version 1.
	return Decision{Action: Action{Kind: AdoptKey, Version: 1, KeyID: first.SignsForeign}}
}

// dropForeign has API servers stop accepting the foreign keys that may go, one after another, and before them the next
// one to come. It sets in t what may change now, and returns what that waits for; empty when only keys are left that
// may not go. Before Retire nothing is restarted for that alone: its restarts are to come. Beside version 1, which
// replaced no older key, all of them stay: adopting a cluster restarts nothing.
func (r run) dropForeign(t *Target) string {
	if r.next == 1 || len(t.Keys.Verify) > 1 {
		return ""
	}
	if gone := among(t.DropForeign, r.BootstrapForeign); len(gone) > 0 {
		t.Bootstrap = true
		return fmt.Sprintf("the next API server to come not to accept the keys %s, which may go", strings.Join(gone, ","))
	}
	for s := range r.staying {
		if gone := among(t.DropForeign, s.Foreign); len(gone) > 0 {
			t.Next = s.Name
			return fmt.Sprintf("API server %s to stop accepting the keys %s, which may go", s.Name, strings.Join(gone, ","))
		}
	}
	return ""
}

// bootstrapDrops reports whether the bootstrap material may lose foreign keys now, because nothing else of it changes.
// After a crash then, an API server that appears only accepts fewer keys than the others. It goes first: a machine that
// replaces one with such a key must not start with it again.
func (r run) bootstrapDrops(want Keys) bool {
	return r.next > 1 && r.Bootstrap.Equal(want) && len(among(r.ForeignMayGo, r.BootstrapForeign)) > 0
}

// among returns which of these kids are among others, ascending.
func among(others, kids []string) (gone []string) {
	for _, kid := range kids {
		if slices.Contains(others, kid) {
			gone = append(gone, kid)
		}
	}
	slices.Sort(gone)
	return gone
}

// foreign names foreign keys that API servers accept and that the user has not released. The annotation that it asks
// for replaces the one of before, so it has those too that were released and are still accepted.
func (r run) foreign() string {
	var names, kids []string
	held := false
	for s := range r.staying {
		if len(s.Foreign) > 0 {
			names, kids = append(names, s.Name), append(kids, s.Foreign...)
			held = held || len(among(r.ForeignMayGo, s.Foreign)) < len(s.Foreign)
		}
	}
	if !held {
		return ""
	}
	slices.Sort(kids)
	who := "API server " + names[0] + " accepts"
	if len(names) > 1 {
		who = "API servers " + strings.Join(names, ", ") + " accept"
	}
	return fmt.Sprintf("somebody to release foreign keys that %s; their tokens are refused afterwards: annotate the "+
		"cluster with keyturn.dev/release-foreign-keys=%s", who, strings.Join(slices.Compact(kids), ","))
}
