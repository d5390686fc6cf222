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

// retiredAccepted names keys that an API server still accepts although every key but the newest was retired. Version 1
// replaced no older key, so other keys beside it were there before.
func (r run) retiredAccepted() string {
	for s := range r.staying {
		if len(s.Foreign) > 0 && r.next > 1 {
			return fmt.Sprintf("API server %s to stop accepting the keys %s, which are no key version of the cluster",
				s.Name, strings.Join(slices.Sorted(slices.Values(s.Foreign)), ", "))
		}
	}
	return ""
}

// foreign names foreign keys that API servers accept and that the user has not released.
func (r run) foreign() string {
	for s := range r.staying {
		kept := slices.DeleteFunc(slices.Clone(s.Foreign), func(kid string) bool {
			return slices.Contains(r.ForeignMayGo, kid)
		})
		if len(kept) > 0 {
			slices.Sort(kept)
			kids := strings.Join(kept, ",")
			return fmt.Sprintf("somebody to release foreign keys that API server %s accepts; their "+
				"tokens are refused afterwards: annotate the cluster with keyturn.dev/release-foreign-keys=%s", s.Name, kids)
		}
	}
	return ""
}
