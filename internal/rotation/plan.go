package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Plan decides what to do next at the time now, for a cluster that was observed as o.
func Plan(o Observed, now time.Time) Decision {
	if v, ok := leftover(o); ok {
		return planWithout(v, o, now)
	}
	if n := len(o.Stored); n == 2 && o.Stored[1] == o.Wanted-1 {
		o.Wanted = o.Stored[1] // finish the running rotation before the next one begins
	}
	d := decide(o, now)
	if d.Blind {
		return d
	}
	d.Versions = versions(o)
	stuck := d.Blocked && d.Action.Kind == Wait
	d.Done = !stuck && onlyOne(o)
	return d
}

func decide(o Observed, now time.Time) Decision {
	wrong, hidden := broken(o), unseen(o)
	if wrong != "" || hidden != "" {
		return Decision{
			Action: Action{Kind: Wait}, Waiting: cmp.Or(wrong, hidden), Blind: hidden != "",
			Blocked: wrong != "" || o.ControlPlaneBlocked,
		}
	}
	if o.Adopted && len(o.Stored) == 0 {
		return adopt(o)
	}
	if !slices.Contains(o.Stored, o.Wanted) {
		// After a crash between storing the key and recording it, the next plan publishes it.
		d := Decision{Action: Action{Kind: GenerateKey, Version: o.Wanted}}
		if o.Wanted > 1 {
			d.Step = StepGenerate
		}
		return d
	}
	r := newRun(o, now)
	if r.old == 0 {
		return r.settle()
	}
	for _, step := range []func() (Decision, bool){r.publish, r.switchOver, r.refresh, r.retire} {
		if d, done := step(); !done {
			return d
		}
	}
	// Every verifier refuses the old key, and no token, node or disk has anything of it. After a crash before the
	// deletion, the next plan comes here again; after the deletion, nothing of the rotation is left to do.
	return Decision{Step: StepRetire, Action: Action{Kind: DeleteKey, Version: r.old}}
}

// unseen names what must be seen before anything is written.
func unseen(o Observed) string {
	switch {
	case o.Presence == PresenceUnknown:
		return cmp.Or(o.ControlPlaneWaiting, "all API servers of the control plane to be seen")
	case o.Presence == PresenceAbsent && o.Adopted:
		return cmp.Or(o.ControlPlaneWaiting, "the control plane to be found: Keyturn did not create it, and creates no other")
	}
	return ""
}

// run is one plan of a rotation from key version old to next; old is 0 if no rotation runs.
type run struct {
	Observed
	old, next int
	now       time.Time
}

// newRun takes the two versions from the store, which must hold at least one. Wanted may be ahead of it.
func newRun(o Observed, now time.Time) run {
	n := len(o.Stored)
	r := run{Observed: o, next: o.Stored[n-1], now: now}
	if n == 2 {
		r.old = o.Stored[0]
	}
	return r
}

// settle keeps a cluster without a running rotation as its spec wants it.
func (r run) settle() Decision {
	keys := r.keys(r.next, r.next)
	if d, done := r.controlPlane("", keys, r.next); !done {
		return d
	}
	if d, done := r.disks("", keys); !done {
		return d
	}
	if r.KubeconfigDue {
		return Decision{Action: Action{Kind: WriteKubeconfig}, Waiting: "the administrator's kubeconfig to be stored"}
	}
	if r.lost(r.next) {
		return r.publishKeys("", r.next)
	}
	// A destination that cannot be reached must not keep nodes from joining.
	if !r.Nodes.Converged || r.nodesOld() {
		return r.nodes("")
	}
	if d, done := r.published("", r.next); !done {
		return d
	}
	if why := r.foreign(); why != "" && r.next > 1 {
		return Decision{Action: converge(keys, r.next), Waiting: why, Blocked: true}
	}
	return Decision{Action: converge(keys, r.next), Settled: true}
}

// publish makes every verifier accept both keys. It is done for good once some API server is configured to sign with
// the new key, since that requires proof from every verifier.
func (r run) publish() (Decision, bool) {
	if r.switchBegan() {
		return Decision{}, true
	}
	// The control plane comes first, as in every step: an unreachable fleet must not keep a dead API server down.
	if d, done := r.controlPlane(StepPublish, r.keys(r.old, r.both()...), r.old); !done {
		return d, false
	}
	return r.spread(StepPublish, r.both()...)
}

// switchOver makes every API server, and then every kube-controller-manager, sign with the new key. It is done for good
// once some API server is configured to drop the old key.
func (r run) switchOver() (Decision, bool) {
	if r.retireBegan() {
		return Decision{}, true
	}
	held, outside := r.spread(StepSwitch, r.both()...)
	sign := r.old
	if r.managersMaySwitch(outside) {
		sign = r.next
	}
	step := r.reached()
	d, done := r.controlPlane(step, r.keys(r.next, r.both()...), sign)
	if outside || sign == r.next {
		return d, done
	}
	held.Step = step
	return r.holdSwitch(d, done, held), false
}

// reached is the step that a rotation has come to whose switch has begun: an API server that dies is down during that
// step, and brings no earlier one back.
func (r run) reached() Step {
	switch {
	case !r.switchOrdered():
		return StepSwitch
	case r.refreshed():
		return StepRetire
	}
	return StepRefresh
}

// managersMaySwitch reports whether every kube-controller-manager may sign with the new key: all API servers are proven
// to, or some kube-controller-manager was allowed to before.
func (r run) managersMaySwitch(outside bool) bool {
	switched := func(s Server) bool { return s.Configured.Sign == r.next && r.proven(s) }
	return outside && r.allServers(switched) || r.managerSwitched()
}

// holdSwitch pauses the switch, which would continue with d, while a destination outside the cluster no longer accepts
// both keys. held publishes the keys again, or waits for that.
func (r run) holdSwitch(d Decision, done bool, held Decision) Decision {
	t := &d.Action.Target
	advances := func(s Server) bool {
		return s.Name == t.Next && !s.Configured.Equal(t.Keys) && !s.lags(t.Keys)
	}
	fresh := t.Live || t.Bootstrap && r.bootstrapDue(t.Keys) && !r.Bootstrap.lags(t.Keys) || r.anyServer(advances)
	if !done && !fresh {
		return d // first bring back what is down
	}
	if down := r.down(t.ControllerManagerSign); down != "" {
		t.Next, t.Live, t.Bootstrap, d.Waiting = "", false, false, down
		return d
	}
	return held
}

// refresh replaces all tokens from before the switch. Legacy tokens come first, so that a pod that the rotation starts,
// and that may read its token only once, starts with one that stays valid. A last walk over them proves that no token
// of the old key came back while nodes and pods were replaced, which may take hours.
//
// It is done for good once some API server is configured to drop the old key. Otherwise a restarted controller would
// prove it again through API servers that may be down, and only a later step brings them back.
func (r run) refresh() (Decision, bool) {
	if r.retireBegan() {
		return Decision{}, true
	}
	// More tokens of the new key are useless where it is refused. A destination that cannot be reached has accepted it
	// before.
	if r.lost(r.both()...) {
		return r.publishKeys(StepRefresh, r.both()...), false
	}
	if r.Legacy.Proven != r.next {
		if d, done := r.watches(); !done {
			return d, false
		}
		return r.legacyTokens(fmt.Sprintf("the legacy tokens to be re-signed with key version %d", r.next)), false
	}
	if r.nodesOld() || !r.Nodes.Converged {
		if r.Unled != "" {
			return waiting(StepRefresh, r.Unled), false // pods that end now would be missing for longer
		}
		return r.nodes(StepRefresh), false
	}
	if r.Legacy.Final != r.next {
		return r.legacyTokens(fmt.Sprintf("a last walk over the legacy tokens to find none of key version %d", r.old)), false
	}
	return Decision{}, true
}

// refreshed reports whether the last observation found no token of the old key in use.
func (r run) refreshed() bool { return r.Legacy.Final == r.next && !r.nodesOld() && r.Nodes.Converged }

// watches waits until each kubelet sees changes of Secrets at once. The old token dies when its Secret is written. A
// pod that mounts it is refused until its kubelet knows, and one that starts before that may copy the dead token. While
// the old key is accepted, waiting costs only time.
func (r run) watches() (Decision, bool) {
	if r.Nodes.Converged && r.Nodes.Oldest == 0 {
		return Decision{}, true // there is no kubelet
	}
	var last Server
	for s := range r.staying {
		if s.WatchesBack.After(last.WatchesBack) {
			last = s
		}
	}
	if !last.WatchesBack.After(r.now) {
		return Decision{}, true
	}
	return waitingUntil(last.WatchesBack, StepRefresh,
		fmt.Sprintf("kubelets to watch Secrets again after the start of API server %s", last.Name)), false
}

func (r run) legacyTokens(why string) Decision {
	return Decision{
		Step: StepRefresh, Action: Action{Kind: RefreshTokens, Version: r.next},
		Waiting: cmp.Or(r.Legacy.Waiting, why), Blocked: r.Legacy.Blocked,
	}
}

// retire removes the old public key from every verifier, and the old private key from every disk. It is done when no
// verifier can accept the old key any more, including those outside the cluster that cache what was published before.
func (r run) retire() (Decision, bool) {
	if reason := r.foreign(); reason != "" && !r.retireBegan() {
		return Decision{Step: StepRetire, Action: Action{Kind: Wait}, Waiting: reason, Blocked: true}, false
	}
	if why := r.outstanding(); why != "" && !r.retireBegan() {
		d := waiting(StepRetire, why)
		d.Patient = true
		return d, false
	}
	keys := r.keys(r.next, r.next)
	if d, done := r.controlPlane(StepRetire, keys, r.next); !done {
		return d, false
	}
	for s := range r.staying {
		if !slices.Contains(s.Refuses, r.old) {
			return waiting(StepRetire,
				fmt.Sprintf("API server %s to refuse a canary token of key version %d", s.Name, r.old)), false
		}
	}
	// Nobody uses tokens of the old key any more, so publishing need not wait until the caches of API servers expire.
	if d, done := r.published(StepRetire, r.next); !done {
		return d, false
	}
	if d, done := r.disks(StepRetire, keys); !done {
		return d, false
	}
	for s := range r.staying {
		if s.Forgets.After(r.now) {
			return waitingUntil(s.Forgets, StepRetire,
				fmt.Sprintf("API server %s to forget which tokens of key version %d it has accepted", s.Name, r.old)), false
		}
	}
	return r.spread(StepRetire, r.next)
}

// outstanding returns which tokens of the old key Retire must wait for; empty if none. Nothing signs with that key any
// more, so there will be no others.
func (r run) outstanding() string {
	if o := r.Outstanding; o.Awaited && o.Live(r.now) && !o.Overdue(r.now) {
		return cmp.Or(o.Waiting, fmt.Sprintf("the signers to report which tokens of key version %d are valid", r.old))
	}
	return ""
}

// disks removes all private keys but the signing key from the disks of control-plane machines.
func (r run) disks(step Step, keys Keys) (Decision, bool) {
	i := slices.IndexFunc(r.Held, func(v int) bool { return v != keys.Sign })
	if i < 0 {
		return Decision{}, true
	}
	why := fmt.Sprintf("the private key of version %d to be gone from the disks of the control plane", r.Held[i])
	return Decision{Step: step, Action: converge(keys, keys.Sign), Waiting: why}, false
}

func (r run) nodes(step Step) Decision {
	why := cmp.Or(r.Nodes.Waiting, fmt.Sprintf("the nodes to be ready and of key version %d", r.next))
	return Decision{
		Step: step, Action: Action{Kind: ConvergeNodes, Version: r.next},
		Waiting: why, Blocked: r.Nodes.Blocked,
	}
}

// keys returns the keys that API servers should accept and sign with, from the source that the spec wants.
func (r run) keys(sign int, verify ...int) Keys {
	return Keys{Verify: verify, Sign: sign, External: r.External}
}

func (r run) both() []int    { return []int{r.old, r.next} }
func (r run) nodesOld() bool { return r.Nodes.Oldest != 0 && r.Nodes.Oldest < r.next }

// front returns the furthest stage in the cluster: of any API server or the next one to appear, configured or running,
// or of a kube-controller-manager, which signs with a key only after every API server was proven to.
func (r run) front() int {
	stage := r.Bootstrap.Stage()
	for _, s := range r.Servers {
		stage = max(stage, s.Configured.Stage(), s.Running.Stage())
	}
	for _, m := range r.ControllerManagers {
		if v := max(m.Configured, m.Running); v > 0 {
			stage = max(stage, Keys{Verify: []int{v - 1, v}, Sign: v}.Stage())
		}
	}
	return stage
}

func (r run) switchBegan() bool { return r.front() >= r.keys(r.next, r.both()...).Stage() }
func (r run) retireBegan() bool { return r.front() >= r.keys(r.next, r.next).Stage() }

// switchOrdered reports whether every signer is configured to sign with the new key. Every API server was proven to
// before the first kube-controller-manager switched, so if there are any, an API server that appeared later does not
// count.
func (r run) switchOrdered() bool {
	if len(r.ControllerManagers) > 0 {
		return !slices.ContainsFunc(r.ControllerManagers, func(m ControllerManager) bool { return m.Configured != r.next })
	}
	return r.allServers(func(s Server) bool { return s.Configured.Sign == r.next })
}

func (r run) managerSwitched() bool {
	return slices.ContainsFunc(r.ControllerManagers, func(m ControllerManager) bool { return m.Configured == r.next })
}

func waiting(step Step, why string) Decision {
	return Decision{Step: step, Action: Action{Kind: Wait}, Waiting: why}
}

// waitingUntil waits for something that only takes time.
func waitingUntil(t time.Time, step Step, why string) Decision {
	d := waiting(step, why+", at the latest at "+t.UTC().Format(time.RFC3339))
	d.Until = t
	return d
}

func converge(keys Keys, sign int) Action {
	return Action{Kind: ConvergeControlPlane, Target: Target{Keys: keys, ControllerManagerSign: sign}}
}
