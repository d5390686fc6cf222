package rotation

import (
	"fmt"
	"slices"
	"time"
)

// asDocumented ends a text that asks for something that admission policies forbid. The page describes how to do it.
const asDocumented = ", as docs/operations/recover.md says"

// broken names an invariant that the store violates. Planning on would be a guess.
func broken(o Observed) string {
	n := len(o.Stored)
	switch {
	case o.Wanted < 1 || n > 0 && o.Stored[0] < 1:
		return fmt.Sprintf("key versions %v are stored, and version %d is wanted, but versions count from 1",
			o.Stored, o.Wanted)
	case n == 0 && o.Wanted > 1:
		return fmt.Sprintf("no key version is stored, but version %d is wanted: restore the key Secrets of the cluster%s",
			o.Wanted, asDocumented)
	case n > 0 && o.Stored[n-1] > o.Wanted:
		return fmt.Sprintf("key version %d is stored, but version %d is wanted: a rotation only goes forward; "+
			"set ksaSigningKey.version back to %[1]d%[3]s", o.Stored[n-1], o.Wanted, asDocumented)
	case n > 0 && o.Stored[n-1] < o.Wanted-1:
		return fmt.Sprintf("key version %d is missing from the store: restore its Secret%s", o.Wanted-1, asDocumented)
	}
	return lost(o)
}

// leftover returns a stored key version that belongs to no rotation, since a rotation has two consecutive versions. It
// was retired and then stored again, for example by somebody who acted on an old plan.
func leftover(o Observed) (version int, ok bool) {
	if n := len(o.Stored); n > 2 || n == 2 && o.Stored[0] > 0 && o.Stored[1]-o.Stored[0] > 1 {
		return o.Stored[0], true
	}
	return 0, false
}

// planWithout plans as if a leftover were not stored, and deletes it when nothing else is left to do and nothing uses
// it.
func planWithout(version int, o Observed, now time.Time) Decision {
	o.Stored = o.Stored[1:]
	d := Plan(o, now)
	idle := d.Settled || d.Action.Kind == Wait && !d.Blocked && !d.Blind
	if !idle || uses(o, version) || slices.Contains(o.Held, version) {
		d.Done, d.Settled = false, false
		return d
	}
	return Decision{
		Step: d.Step, Action: Action{Kind: DeleteKey, Version: version}, Versions: d.Versions,
		Waiting: fmt.Sprintf("the Secret of key version %d, which was retired, to be deleted", version),
	}
}

// uses reports whether a process that stays runs, or will start, with a key version.
func uses(o Observed, version int) bool {
	return slices.ContainsFunc(o.Servers, func(s Server) bool {
		return !s.Leaving && (slices.Contains(s.Configured.Verify, version) || slices.Contains(s.Running.Verify, version))
	}) || slices.ContainsFunc(o.ControllerManagers, func(m ControllerManager) bool {
		return m.Configured == version || m.Running == version
	})
}

// lost names a key version that something should use but the store does not hold. No other key pair may ever be stored
// under its number, and the version may not be dropped while nothing is proven to replace it. A retired version is not
// lost: a server that comes back with it gets the current keys.
func lost(o Observed) string {
	oldest := oldestAlive(o)
	missing := func(version int) bool { return version >= oldest && !slices.Contains(o.Stored, version) }
	for _, s := range o.Servers {
		if i := slices.IndexFunc(s.Configured.Verify, missing); i >= 0 {
			return fmt.Sprintf("key version %d is missing from the store, but API server %s is configured with it: "+
				"restore its Secret%s", s.Configured.Verify[i], s.Name, asDocumented)
		}
	}
	for _, m := range o.ControllerManagers {
		if missing(m.Configured) {
			return fmt.Sprintf("key version %d is missing from the store, but kube-controller-manager %s is configured "+
				"with it: restore its Secret%s", m.Configured, m.Name, asDocumented)
		}
	}
	return ""
}

// oldestAlive returns the oldest key version that was certainly not retired; versions count from 1. The next rotation
// begins only after the previous one has ended, and no API server drops a key before it may.
func oldestAlive(o Observed) int {
	if len(o.Stored) == 0 {
		return 1
	}
	oldest := o.Stored[0]
	dropped := run{Observed: o}.front() >= Keys{Verify: []int{oldest}}.Stage()
	if o.Wanted > oldest || o.Completed || dropped {
		return oldest
	}
	return max(1, oldest-1)
}

// onlyOne reports whether only the wanted key version is stored, no process runs or will start with another, and no API
// server accepts a key that is no key version of the cluster. Beside version 1, such keys were there before.
func onlyOne(o Observed) bool {
	if !slices.Equal(o.Stored, []int{o.Wanted}) || len(o.Servers) == 0 {
		return false
	}
	other := func(k Keys) bool { return !k.IsZero() && !slices.Equal(k.Verify, o.Stored) }
	return !slices.ContainsFunc(o.Servers, func(s Server) bool {
		foreign := len(s.Foreign) > 0 && o.Wanted > 1
		return !s.Leaving && (s.Configured.IsZero() || other(s.Configured) || other(s.Running) || foreign)
	}) && !slices.ContainsFunc(o.ControllerManagers, func(m ControllerManager) bool {
		return m.Configured != o.Wanted || m.Running != 0 && m.Running != o.Wanted
	})
}
