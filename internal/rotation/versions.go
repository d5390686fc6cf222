package rotation

import (
	"slices"
	"time"
)

// versions summarizes the observation as the three versions of `status`. If an API server cannot be asked, versions
// uses what its process was started with, or what the next one will start with: it can run with nothing else.
func versions(o Observed) Versions {
	if len(o.Stored) == 0 || len(o.Servers) == 0 {
		return Versions{}
	}
	r := newRun(o, time.Time{})
	oldest := o.Stored[0]
	v := Versions{Token: oldest, Private: oldest, Public: []int{oldest}}
	if r.old == 0 {
		return v
	}
	if r.allSign() {
		v.Private = r.next
	}
	if r.retireBegan() || v.Private == r.next && r.Legacy.Final == r.next && !r.nodesOld() && r.Nodes.Converged {
		v.Token = r.next
	}
	if r.allAccept() || r.retireBegan() { // all did, before the first could drop the old one
		v.Public = r.both()
	}
	return v
}

// allSign reports whether every signer has stopped signing with the old key version.
func (r run) allSign() bool {
	oldManager := func(m ControllerManager) bool {
		return m.Configured != r.next || m.Running != 0 && m.Running != r.next
	}
	return r.allServers(r.signsNext) && !slices.ContainsFunc(r.ControllerManagers, oldManager)
}

// allAccept reports whether every verifier accepts the new key version. Destinations outside the cluster need no check
// once the switch began.
func (r run) allAccept() bool {
	refuses := func(p Publication) bool { return p.Waiting != "" || !slices.Contains(p.Accepts, r.next) }
	outside := r.switchBegan() || !slices.ContainsFunc(r.Publications, refuses)
	return outside && r.allServers(r.acceptsNext)
}

func (r run) signsNext(s Server) bool {
	seen := s.Signs == r.next || s.Signs == 0 && (s.believable() || r.managerSwitched() || r.retireBegan())
	return seen && s.keys().Sign == r.next
}

func (r run) acceptsNext(s Server) bool {
	if len(s.Accepts)+len(s.Refuses) > 0 {
		return slices.Contains(s.Accepts, r.next)
	}
	return slices.Contains(s.keys().Verify, r.next) && (s.believable() || r.switchBegan())
}

// believable reports whether the configured keys are the ones in use. Key files are read at start, so they are. With a
// signer the new keys arrive later, so only a proof counts.
func (s Server) believable() bool { return !s.Running.External }

// keys returns what the API server runs with or, if it does not run, starts with next.
func (s Server) keys() Keys {
	if s.Running.IsZero() {
		return s.Configured
	}
	return s.Running
}
