package rotation

import (
	"errors"
	"fmt"
	"slices"
)

// The laws about a decision and what was observed for it.

// checkForward lets no target be behind what an API server has, or is already to have.
func checkForward(o Observed, a Action) error {
	for _, s := range o.Servers {
		if a.Kind == ConvergeControlPlane && a.Target.Keys.Stage() < max(s.Configured.Stage(), s.Running.Stage()) {
			return fmt.Errorf("%v goes backward from what %s has and is to have, %v and %v", a.Target.Keys, s.Name, s.Running,
				s.Configured)
		}
	}
	for _, m := range o.ControllerManagers {
		if a.Kind == ConvergeControlPlane && a.Target.ControllerManagerSign < m.Configured {
			return fmt.Errorf("%d goes backward from what %s is to sign with, %d", a.Target.ControllerManagerSign, m.Name,
				m.Configured)
		}
	}
	return nil
}

// checkLaggards has an API server that refuses tokens which are in use come before any other.
func checkLaggards(o Observed, a Action) error {
	front := o.Bootstrap.Stage()
	for _, s := range o.Servers {
		front = max(front, s.Configured.Stage())
	}
	lags := func(s Server) bool {
		lowest := s.Configured.Stage()
		if !s.Running.IsZero() {
			lowest = min(lowest, s.Running.Stage())
		}
		return !s.Leaving && lowest > 0 && lowest < front-1
	}
	i := slices.IndexFunc(o.Servers, lags)
	if i < 0 || a.Kind == GenerateKey || a.Kind == AdoptKey {
		return nil
	}
	if j := slices.IndexFunc(o.Servers, func(s Server) bool { return s.Name == a.Target.Next }); j < 0 ||
		!lags(o.Servers[j]) && !o.Servers[j].lags(a.Target.Keys) {
		return fmt.Errorf("%s, next %q, while %s lags behind", a.Kind, a.Target.Next, o.Servers[i].Name)
	}
	return nil
}

// checkAttended has a dead process come before all but the key that a rotation begins with: what else there is to
// do may need it, or take long.
func checkAttended(o Observed, a Action) error {
	if a.Kind == ConvergeControlPlane || a.Kind == GenerateKey || o.Adopted && len(o.Stored) == 0 {
		return nil // before its key is ours, so is no process
	}
	for _, s := range o.Servers {
		if s.Running.IsZero() && !s.Leaving {
			return fmt.Errorf("%s is left down by %s", s.Name, a.Kind)
		}
	}
	for _, m := range o.ControllerManagers {
		if m.Running == 0 {
			return fmt.Errorf("%s is left down by %s", m.Name, a.Kind)
		}
	}
	return nil
}

// checkProofs asks for the proofs of the step before, in what the planner knew when it decided.
func checkProofs(o Observed, d Decision, begun uint8) error {
	leftover := d.Action.Kind == DeleteKey && len(o.Stored) > 2 // it was proven to be gone before
	for _, s := range o.Servers {
		if s.Leaving || leftover {
			continue
		}
		switch d.Action.Kind {
		case RefreshTokens, ConvergeNodes:
			if s.Signs != d.Action.Version {
				return fmt.Errorf("%s before a token of %s was seen to be of key version %d", d.Action.Kind, s.Name,
					d.Action.Version)
			}
			if d.Step == StepRefresh &&
				slices.ContainsFunc(o.Publications,
					func(p Publication) bool { return slices.Contains(p.Refuses, d.Action.Version) }) {
				return fmt.Errorf("%s of key version %d while the fleet refuses it", d.Action.Kind, d.Action.Version)
			}
		case DeleteKey:
			if !slices.Contains(s.Refuses, d.Action.Version) {
				return fmt.Errorf("key version %d is deleted before %s refused it", d.Action.Version, s.Name)
			}
			if s.Forgets.After(now) {
				return fmt.Errorf("key version %d is deleted before %s has forgotten it", d.Action.Version, s.Name)
			}
		}
	}
	for _, p := range o.Publications {
		switch {
		case !p.CertainAt.After(now):
		case d.Step == StepSwitch && begun < rank(StepSwitch), startsToSign(o, d.Action):
			return fmt.Errorf("switches while some verifier of %s may not know the key yet", p.Name)
		case d.Step == StepRetire && d.Action.Kind == DeleteKey && !leftover:
			return fmt.Errorf("key version %d is deleted while some verifier of %s may accept it", d.Action.Version, p.Name)
		}
	}
	if d.Step == StepRetire && begun != rank(StepRetire) && (!o.Nodes.Converged ||
		o.Legacy.Final != slices.Max(o.Stored)) {
		return fmt.Errorf("retires with nodes %+v and legacy tokens %+v", o.Nodes, o.Legacy)
	}
	return nil
}

// startsToSign reports whether an action has one more signer sign with a key version that is new to it. One that lags
// behind is brought up regardless of what verifiers know: others sign with that key already. So is a
// kube-controller-manager, once another one has switched.
func startsToSign(o Observed, a Action) bool {
	t := a.Target
	if a.Kind != ConvergeControlPlane || len(o.Stored) < 2 {
		return false
	}
	fresh := func(k Keys) bool { return !k.IsZero() && k.Sign < t.Keys.Sign && !k.lags(t.Keys) }
	server := slices.ContainsFunc(o.Servers, func(s Server) bool {
		return (t.Live || s.Name == t.Next) && fresh(s.Configured) && !s.lags(t.Keys)
	})
	switched := func(m ControllerManager) bool { return m.Configured >= t.ControllerManagerSign }
	manager := len(o.ControllerManagers) > 0 && !slices.ContainsFunc(o.ControllerManagers, switched)
	return server || manager || t.Bootstrap && fresh(o.Bootstrap)
}

// checkNext allows one API server out at a time, when there is something to change, and while all others serve.
func checkNext(o Observed, t Target) error {
	if t.Next == "" {
		return nil
	}
	if i := slices.IndexFunc(o.Servers, func(s Server) bool { return s.Name == t.Next }); o.Servers[i].lags(t.Keys) {
		return nil // it is worse than away
	}
	for _, s := range o.Servers {
		if s.Leaving && s.Name != t.Next {
			continue
		}
		// What an API server is to start with next does not matter: if it crashes now, that is a stage away at most.
		if s.Name != t.Next && (!s.Ready || s.Waiting != "" || s.Running.IsZero()) {
			return fmt.Errorf("%s is taken out while %s is not ready", t.Next, s.Name)
		}
		drops := func(kid string) bool { return slices.Contains(t.DropForeign, kid) }
		if s.Name == t.Next && slices.ContainsFunc(s.Foreign, drops) {
			continue // with its signer too, although that restarts nothing
		}
		if s.Name == t.Next && s.Configured.Equal(t.Keys) && s.Running.Equal(t.Keys) {
			return fmt.Errorf("%s is taken out for nothing", t.Next)
		}
		if s.Name == t.Next && s.Configured.External && s.Running.External && t.Keys.External {
			return fmt.Errorf("%s is taken out although it has a signer", t.Next)
		}
	}
	return nil
}

// checkLive allows all API servers to change at once, when there is something to change, and while all are proven.
func checkLive(o Observed, t Target) error {
	if !t.Live {
		return nil
	}
	if t.Next != "" {
		return fmt.Errorf("%s is taken out while all others change", t.Next)
	}
	changes := false
	for _, s := range o.Servers {
		if s.Leaving {
			continue
		}
		changes = changes || s.Configured.External && t.Keys.External && !s.Configured.Equal(t.Keys)
		lacks := func(v int) bool { return v >= o.Stored[0] && !slices.Contains(s.Accepts, v) }
		if !s.Ready || s.Waiting != "" || s.Running.IsZero() || s.Signs != s.Configured.Sign ||
			slices.ContainsFunc(s.Configured.Verify, lacks) {
			return fmt.Errorf("all change while %s is not proven", s.Name)
		}
	}
	if !changes {
		return errors.New("all change for nothing")
	}
	return nil
}
