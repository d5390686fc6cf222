package rotation

import (
	"cmp"
	"fmt"
	"slices"
)

// controlPlane moves every API server to want, and makes every kube-controller-manager sign with sign. done means that
// all of them are proven to.
func (r run) controlPlane(step Step, want Keys, sign int) (d Decision, done bool) {
	d = Decision{Step: step, Action: converge(want, sign)}
	t := &d.Action.Target
	t.DropForeign = r.ForeignMayGo
	t.Bootstrap = r.Bootstrap.lags(want) || r.bootstrapDrops(want)
	if d.Waiting = r.missing(); d.Waiting != "" {
		return d, false
	}
	if i := slices.IndexFunc(r.Servers, func(s Server) bool { return s.lags(want) }); i >= 0 {
		// This API server refuses tokens that are in use, which is worse than being down. It waits for no other.
		t.Next = r.Servers[i].Name
		d.Waiting = r.Servers[i].whyChanging(want)
		return d, false
	}
	if d.Waiting = r.change(t); d.Waiting != "" {
		return d, false
	}
	for _, m := range r.ControllerManagers {
		if m.Configured != sign || m.Running != sign || !m.Ready {
			d.Waiting = m.whyNot(sign)
			return d, false
		}
	}
	d.Waiting = cmp.Or(r.dropForeign(t), r.ControlPlaneWaiting)
	return d, d.Waiting == ""
}

// missing returns what is waited for if there are no API servers.
func (r run) missing() string {
	switch {
	case r.Presence == PresenceAbsent:
		return "the control plane to be created"
	case !r.anyServer(func(Server) bool { return true }):
		return "an API server to appear"
	}
	return ""
}

// change sets in t what may change now, and returns what that waits for; empty if nothing is left to change.
func (r run) change(t *Target) string {
	servers := slices.Collect(r.staying)
	candidate := slices.IndexFunc(servers, Server.restarting)
	if candidate < 0 && !r.bootstrapDue(t.Keys) {
		candidate = slices.IndexFunc(servers, func(s Server) bool { return !s.Configured.Equal(t.Keys) && !s.live(t.Keys) })
	}
	for i, s := range servers {
		if s.restarting() {
			// Several of them wait for their turn, for example because the key files of both were restored while they
			// run. What counts is what it runs with. If it crashes meanwhile, it starts with keys that are one stage
			// away from the others', as any API server may have during a change. One further away lags behind.
			s.Configured = s.Running
		}
		if i != candidate && !r.proven(s) {
			return r.whyNot(s)
		}
	}
	if candidate >= 0 {
		t.Next = servers[candidate].Name
		return servers[candidate].whyChanging(t.Keys)
	}
	// All of them are proven to run as configured.
	if r.bootstrapDue(t.Keys) {
		// After a crash here, an API server that appears now is one stage ahead of the others, which is harmless.
		t.Bootstrap = true
		return fmt.Sprintf("the next API server to come to accept key versions %v and sign with %d",
			t.Keys.Verify, t.Keys.Sign)
	}
	if i := slices.IndexFunc(servers, func(s Server) bool { return !s.Configured.Equal(t.Keys) }); i >= 0 {
		// All of them may change. After a crash in between, the others follow once those that changed are proven again.
		t.Live = true
		return servers[i].whyChanging(t.Keys)
	}
	return ""
}

// bootstrapDue reports whether an API server that appears now would start with other keys than these.
func (r run) bootstrapDue(want Keys) bool { return !r.Bootstrap.IsZero() && !r.Bootstrap.Equal(want) }

// staying yields the API servers whose machines are not being removed.
func (r run) staying(yield func(Server) bool) {
	for _, s := range r.Servers {
		if !s.Leaving && !yield(s) {
			return
		}
	}
}

// down names a process that should run and does not; empty if there is none.
func (r run) down(sign int) string {
	for s := range r.staying {
		if s.Running.IsZero() {
			return r.whyNot(s)
		}
	}
	for _, m := range r.ControllerManagers {
		if m.Running == 0 {
			return m.whyNot(sign)
		}
	}
	return ""
}

// anyServer reports whether is returns true for some API server that stays.
func (r run) anyServer(is func(Server) bool) bool {
	for s := range r.staying {
		if is(s) {
			return true
		}
	}
	return false
}

// allServers reports whether some API server stays, and are returns true for all that do.
func (r run) allServers(are func(Server) bool) bool {
	some := false
	for s := range r.staying {
		if some = true; !are(s) {
			return false
		}
	}
	return some
}

// lags reports whether keys are of an earlier stage than the one that a change to want starts from. An API server with
// such keys refuses tokens that are in use, or its own tokens may be refused.
func (k Keys) lags(want Keys) bool { return !k.IsZero() && k.Stage() < want.Stage()-1 }

// lags reports whether the API server runs, or would start, with keys that lag behind want. One that serves with
// the keys of no step does too: its key may be a version that nobody remembers.
func (s Server) lags(want Keys) bool {
	unknown := s.Ready && s.Running.IsZero()
	return !s.Leaving && (unknown || s.Configured.lags(want) || s.Running.lags(want))
}

// restarting reports whether the process runs with other keys than configured, and needs a restart to read them.
func (s Server) restarting() bool {
	return !s.Running.IsZero() && !s.Running.Equal(s.Configured) && !(s.Running.External && s.Configured.External)
}

// live reports whether the API server can change to want without a restart. One that is down still has a signer.
func (s Server) live(want Keys) bool { return s.Configured.External && want.External }

// proven reports whether the API server itself has shown that it runs as configured.
func (r run) proven(s Server) bool { return r.whyNot(s) == "" }

// whyNot returns why an API server is not proven; empty if it is. A retired key cannot be proven, and need not be.
func (r run) whyNot(s Server) string {
	switch {
	case s.Waiting != "":
		return fmt.Sprintf("API server %s: %s", s.Name, s.Waiting)
	case !s.Ready || s.Running.IsZero() || s.restarting():
		return fmt.Sprintf("API server %s to be ready", s.Name)
	case s.Signs != s.Configured.Sign && s.SignsForeign != "":
		return fmt.Sprintf("API server %s to issue a token of key version %d: it signs with key %s, which is no key "+
			"version of the cluster", s.Name, s.Configured.Sign, s.SignsForeign)
	case s.Signs != s.Configured.Sign:
		return fmt.Sprintf("API server %s to issue a token of key version %d", s.Name, s.Configured.Sign)
	}
	for _, v := range s.Configured.Verify {
		if v >= r.Stored[0] && !slices.Contains(s.Accepts, v) {
			return fmt.Sprintf("API server %s to accept a canary token of key version %d", s.Name, v)
		}
	}
	return ""
}

// whyChanging returns what the API server should change to, and what it waits for.
func (s Server) whyChanging(want Keys) string {
	text := fmt.Sprintf("API server %s to accept key versions %v and sign with %d", s.Name, want.Verify, want.Sign)
	switch converts := want.External != s.Configured.External || want.External != s.keys().External; {
	case converts && want.External:
		text += ", which it gets from its signer"
	case converts:
		text += ", which it reads from files"
	}
	if s.Waiting != "" {
		text += ": " + s.Waiting
	}
	return text
}

func (m ControllerManager) whyNot(sign int) string {
	if m.Waiting != "" {
		return fmt.Sprintf("kube-controller-manager %s: %s", m.Name, m.Waiting)
	}
	return fmt.Sprintf("kube-controller-manager %s to sign with key version %d", m.Name, sign)
}
