package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Plan decides what to do next, at the time now, for a cluster of which o was observed.
func Plan(o Observed, now time.Time) Decision {
	d := decide(o, now)
	d.Versions = versions(o)
	return d
}

func decide(o Observed, now time.Time) Decision {
	if n := len(o.Stored); n == 2 && o.Stored[1] == o.Wanted-1 {
		o.Wanted = o.Stored[1] // the rotation that runs is finished before the next one begins
	}
	if reason := broken(o); reason != "" {
		return Decision{Action: Action{Kind: Wait}, Waiting: reason, Blocked: true}
	}
	if !slices.Contains(o.Stored, o.Wanted) {
		// If we crash after the key is stored and before anybody knows it, the next plan publishes it.
		d := Decision{Action: Action{Kind: GenerateKey, Version: o.Wanted}}
		if o.Wanted > 1 {
			d.Step = StepGenerate
		}
		return d
	}
	r := newRun(o)
	r.now = now
	if r.old == 0 {
		return r.settle()
	}
	for _, step := range []func() (Decision, bool){r.publish, r.switchOver, r.refresh, r.retire} {
		if d, done := step(); !done {
			return d
		}
	}
	// Every verifier refuses the old key, and no token or node of it is left. If we crash before the deletion,
	// the next plan comes here again; after it, nothing of the rotation is left to do.
	return Decision{Step: StepRetire, Action: Action{Kind: DeleteKey, Version: r.old}}
}

// broken names an invariant that the store breaks; planning on would be a guess.
func broken(o Observed) string {
	n := len(o.Stored)
	switch {
	case o.Wanted < 1 || n > 0 && o.Stored[0] < 1:
		return fmt.Sprintf("key versions %v are stored, and version %d is wanted, but versions count from 1", o.Stored, o.Wanted)
	case n == 0 && o.Wanted > 1:
		return fmt.Sprintf("no key version is stored, but version %d is wanted: restore the key Secrets of the cluster", o.Wanted)
	case n > 0 && o.Stored[n-1] > o.Wanted:
		return fmt.Sprintf("key version %d is stored, but version %d is wanted: a rotation only goes forward; set ksaSigningKey.version back to %[1]d", o.Stored[n-1], o.Wanted)
	case n > 0 && o.Stored[n-1] < o.Wanted-1:
		return fmt.Sprintf("key version %d is missing from the store: restore its Secret", o.Wanted-1)
	case n > 2 || n == 2 && o.Stored[0] != o.Wanted-1:
		return fmt.Sprintf("key versions %v are stored, but at most %d and %d can be: delete the Secrets of those that nothing uses", o.Stored, o.Wanted-1, o.Wanted)
	}
	return lost(o)
}

// lost names a key version that something was told to use and that the store does not hold. Another key pair
// must never be stored under its number, nor the version be dropped where nothing is proven to replace it.
func lost(o Observed) string {
	missing := func(version int) bool { return version != 0 && !slices.Contains(o.Stored, version) }
	for _, s := range o.Servers {
		if i := slices.IndexFunc(s.Configured.Verify, missing); i >= 0 {
			return fmt.Sprintf("key version %d is missing from the store, but API server %s is configured with it: restore its Secret", s.Configured.Verify[i], s.Name)
		}
	}
	for _, m := range o.ControllerManagers {
		if missing(m.Configured) {
			return fmt.Sprintf("key version %d is missing from the store, but kube-controller-manager %s is configured with it: restore its Secret", m.Configured, m.Name)
		}
	}
	return ""
}

// run is one plan of a rotation from the key version old to next; old is 0 when no rotation runs.
type run struct {
	Observed
	old, next int
	now       time.Time
}

// newRun reads the two versions off the store, which must hold one at least: Wanted may be ahead of it.
func newRun(o Observed) run {
	n := len(o.Stored)
	r := run{Observed: o, next: o.Stored[n-1]}
	if n == 2 {
		r.old = o.Stored[0]
	}
	return r
}

// settle keeps a cluster in which no rotation runs as its spec wants it.
func (r run) settle() Decision {
	if d, done := r.controlPlane("", r.keys(r.next, r.next), r.next); !done {
		return d
	}
	if r.lost(r.next) {
		return r.publishKeys("", r.next)
	}
	// A place that cannot be asked does not keep nodes from coming.
	if !r.Nodes.Converged || r.nodesOld() {
		return r.nodes("")
	}
	if d, done := r.published("", r.next); !done {
		return d
	}
	return Decision{Action: Action{Kind: Wait}, Settled: true}
}

// publish makes every verifier accept both keys. It is over for good once some API server is told to sign with
// the new one: that happens only after it was proven.
func (r run) publish() (Decision, bool) {
	if r.switchBegan() {
		return Decision{}, true
	}
	// The control plane comes first, as in every step: a fleet out of reach must not keep a dead API server down.
	if d, done := r.controlPlane(StepPublish, r.keys(r.old, r.both()...), r.old); !done {
		return d, false
	}
	if d, done := r.published(StepPublish, r.both()...); !done {
		return d, false
	}
	for _, p := range r.Publications {
		if left := p.SureAt.Sub(r.now); left > 0 {
			return waiting(StepPublish, fmt.Sprintf("every verifier of %s to know key version %d, which is sure at %s",
				p.Name, r.next, p.SureAt.UTC().Format(time.RFC3339))), false
		}
	}
	return Decision{}, true
}

// switchOver makes every API server sign with the new key, and after them every kube-controller-manager. It is
// over for good once some API server is told to drop the old key.
func (r run) switchOver() (Decision, bool) {
	if r.retireBegan() {
		return Decision{}, true
	}
	_, outside := r.published(StepSwitch, r.both()...)
	sign := r.old
	if outside && r.allServers(func(s Server) bool { return s.Configured.Sign == r.next && s.proven() }) || r.managerSwitched() {
		sign = r.next
	}
	step := StepSwitch
	if r.switchTold() {
		step = StepRefresh // an API server that dies from here on is down during Refresh, and does not bring Switch back
	}
	d, done := r.controlPlane(step, r.keys(r.next, r.both()...), sign)
	if outside || sign == r.next {
		return d, done
	}
	return r.holdSwitch(d, done), false
}

// holdSwitch lets no other signer switch while some place outside the cluster does not prove, any more, that it accepts both keys.
func (r run) holdSwitch(d Decision, done bool) Decision {
	t := &d.Action.Target
	fresh := t.Live || r.anyServer(func(s Server) bool { return s.Name == t.Next && !s.Configured.Equal(t.Keys) })
	switch {
	case !done && !fresh:
		return d // what is out comes back first
	case r.anyDown():
		t.Next, t.Live = "", false
		return d
	}
	return r.publishKeys(d.Step, r.both()...)
}

// refresh leaves no node and no legacy token of the time before the switch. Nodes come first: the kubelets of new
// ones have sound watches, while those that were connected to the API server restarted last may notice a re-signed
// token seconds late. It is over for good once some API server is told to drop the old key; else a restarted
// controller would prove it again through API servers that may be down, and only a later step brings them back.
func (r run) refresh() (Decision, bool) {
	if r.retireBegan() {
		return Decision{}, true
	}
	// More tokens of the new key are of no use where it is refused. A place that cannot be asked has accepted it before.
	if r.lost(r.both()...) {
		return r.publishKeys(StepRefresh, r.both()...), false
	}
	if r.nodesOld() || !r.Nodes.Converged {
		return r.nodes(StepRefresh), false
	}
	if r.Legacy.Proven != r.next {
		why := cmp.Or(r.Legacy.Waiting, fmt.Sprintf("the legacy tokens to be re-signed with key version %d", r.next))
		return Decision{
			Step: StepRefresh, Action: Action{Kind: RefreshTokens, Version: r.next},
			Waiting: why, Blocked: r.Legacy.Blocked,
		}, false
	}
	return Decision{}, true
}

// retire takes the old public key away from every verifier.
func (r run) retire() (Decision, bool) {
	if d, done := r.controlPlane(StepRetire, r.keys(r.next, r.next), r.next); !done {
		return d, false
	}
	for _, s := range r.Servers {
		if !slices.Contains(s.Refuses, r.old) {
			return waiting(StepRetire, fmt.Sprintf("API server %s to refuse a canary token of key version %d", s.Name, r.old)), false
		}
	}
	for _, s := range r.Servers {
		if s.Forgets.After(r.now) {
			return waiting(StepRetire, fmt.Sprintf("API server %s to forget which tokens of key version %d it has accepted, which is sure at %s",
				s.Name, r.old, s.Forgets.UTC().Format(time.RFC3339))), false
		}
	}
	return r.published(StepRetire, r.next)
}

// controlPlane brings every API server to want and every kube-controller-manager to sign; done says that
// all of them are proven to be there.
func (r run) controlPlane(step Step, want Keys, sign int) (d Decision, done bool) {
	d = Decision{Step: step, Action: Action{
		Kind:   ConvergeControlPlane,
		Target: Target{Keys: want, ControllerManagerSign: sign},
	}}
	if len(r.Servers) == 0 {
		d.Waiting = "the control plane to be made"
		return d, false
	}
	candidate := slices.IndexFunc(r.Servers, Server.restarting)
	if candidate < 0 {
		candidate = slices.IndexFunc(r.Servers, func(s Server) bool { return !s.Configured.Equal(want) && !s.live(want) })
	}
	for i, s := range r.Servers {
		if i != candidate && !s.proven() {
			d.Waiting = s.whyNot()
			return d, false
		}
	}
	if candidate >= 0 {
		s := r.Servers[candidate]
		d.Action.Target.Next = s.Name
		d.Waiting = s.whyChanging(want)
		return d, false
	}
	if i := slices.IndexFunc(r.Servers, func(s Server) bool { return !s.Configured.Equal(want) }); i >= 0 {
		// They are all proven as they are, so they may all change. If we crash when some have, the others follow once those
		// that have are proven again.
		d.Action.Target.Live = true
		d.Waiting = r.Servers[i].whyChanging(want)
		return d, false
	}
	for _, m := range r.ControllerManagers {
		if m.Configured != sign || m.Running != sign || !m.Ready {
			d.Waiting = m.whyNot(sign)
			return d, false
		}
	}
	d.Waiting = r.ControlPlaneWaiting
	return d, d.Waiting == ""
}

func (r run) nodes(step Step) Decision {
	why := cmp.Or(r.Nodes.Waiting, fmt.Sprintf("the nodes to be ready and of key version %d", r.next))
	return Decision{
		Step: step, Action: Action{Kind: ConvergeNodes, Version: r.next},
		Waiting: why, Blocked: r.Nodes.Blocked,
	}
}

// published makes these key versions, and no other, the ones that verifiers outside the cluster accept; done says
// that each place has proven it.
func (r run) published(step Step, versions ...int) (d Decision, done bool) {
	for _, p := range r.Publications {
		if p.whyNot(versions, r.Stored) != "" {
			return r.publishKeys(step, versions...), false
		}
	}
	return Decision{}, true
}

func (r run) publishKeys(step Step, versions ...int) Decision {
	d := Decision{Step: step, Action: Action{Kind: PublishKeys, Publish: versions}}
	for _, p := range r.Publications {
		if d.Waiting = p.whyNot(versions, r.Stored); d.Waiting != "" {
			break
		}
	}
	return d
}

// lost says that some place was seen to refuse one of these key versions.
func (r run) lost(versions ...int) bool {
	return slices.ContainsFunc(r.Publications, func(p Publication) bool {
		return slices.ContainsFunc(versions, func(v int) bool {
			return slices.Contains(p.Refuses, v) && !slices.Contains(p.Accepts, v)
		})
	})
}

// keys are those that the API servers are to accept and to sign with, from the source that the spec wants.
func (r run) keys(sign int, verify ...int) Keys {
	return Keys{Verify: verify, Sign: sign, External: r.External}
}

func (r run) both() []int    { return []int{r.old, r.next} }
func (r run) nodesOld() bool { return r.Nodes.Oldest != 0 && r.Nodes.Oldest < r.next }

func (r run) switchBegan() bool {
	return r.anyServer(func(s Server) bool { return s.Configured.Sign == r.next || s.Running.Sign == r.next })
}

// switchTold says that every signer is told to sign with the new key; every API server was proven to by the time
// that the first kube-controller-manager was told.
func (r run) switchTold() bool {
	return r.allServers(func(s Server) bool { return s.Configured.Sign == r.next }) &&
		!slices.ContainsFunc(r.ControllerManagers, func(m ControllerManager) bool { return m.Configured != r.next })
}

func (r run) retireBegan() bool {
	return r.anyServer(func(s Server) bool {
		return s.Configured.Sign == r.next && !slices.Contains(s.Configured.Verify, r.old)
	})
}

func (r run) managerSwitched() bool {
	return slices.ContainsFunc(r.ControllerManagers, func(m ControllerManager) bool { return m.Configured == r.next })
}

// anyDown says that some process does not run.
func (r run) anyDown() bool {
	return r.anyServer(func(s Server) bool { return s.Running.IsZero() }) ||
		slices.ContainsFunc(r.ControllerManagers, func(m ControllerManager) bool { return m.Running == 0 })
}

func (r run) anyServer(f func(Server) bool) bool { return slices.ContainsFunc(r.Servers, f) }

func (r run) allServers(f func(Server) bool) bool {
	return len(r.Servers) > 0 && !r.anyServer(func(s Server) bool { return !f(s) })
}

// restarting says that the process runs with other keys than it is configured with, and has to be started again for them.
func (s Server) restarting() bool {
	return !s.Running.IsZero() && !s.Running.Equal(s.Configured) && !(s.Running.External && s.Configured.External)
}

// live says that the API server can change to want without being taken out. One that is down has a signer all the same.
func (s Server) live(want Keys) bool { return s.Configured.External && want.External }

// proven says that the API server itself has shown that it runs as it is configured.
func (s Server) proven() bool { return s.whyNot() == "" }

// whyNot says in words what keeps the API server from being proven; empty when nothing does.
func (s Server) whyNot() string {
	switch {
	case s.Waiting != "":
		return fmt.Sprintf("API server %s: %s", s.Name, s.Waiting)
	case !s.Ready || s.Running.IsZero() || s.restarting():
		return fmt.Sprintf("API server %s to be ready", s.Name)
	case s.Signs != s.Configured.Sign:
		return fmt.Sprintf("API server %s to issue a token of key version %d", s.Name, s.Configured.Sign)
	}
	for _, v := range s.Configured.Verify {
		if !slices.Contains(s.Accepts, v) {
			return fmt.Sprintf("API server %s to accept a canary token of key version %d", s.Name, v)
		}
	}
	return ""
}

// whyNot says in words what keeps these of the stored key versions from being the only ones accepted; empty when
// nothing does.
func (p Publication) whyNot(versions, stored []int) string {
	if p.Waiting != "" {
		return fmt.Sprintf("%s: %s", p.Name, p.Waiting)
	}
	for _, v := range stored {
		switch wanted := slices.Contains(versions, v); {
		case wanted && !slices.Contains(p.Accepts, v):
			return fmt.Sprintf("%s to accept a canary token of key version %d", p.Name, v)
		case !wanted && !slices.Contains(p.Refuses, v):
			return fmt.Sprintf("%s to refuse a canary token of key version %d", p.Name, v)
		}
	}
	return ""
}

func (m ControllerManager) whyNot(sign int) string {
	if m.Waiting != "" {
		return fmt.Sprintf("kube-controller-manager %s: %s", m.Name, m.Waiting)
	}
	return fmt.Sprintf("kube-controller-manager %s to sign with key version %d", m.Name, sign)
}

// whyChanging says what the API server is to change to, and what keeps it from that now.
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

func waiting(step Step, why string) Decision {
	return Decision{Step: step, Action: Action{Kind: Wait}, Waiting: why}
}
