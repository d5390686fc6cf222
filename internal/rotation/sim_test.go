package rotation

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// The simulated cluster does what the contracts of internal/controlplane, internal/nodes and the refresh of
// legacy tokens allow and no more, in steps as small as can be distinguished: an API server is configured, drained,
// stopped, started and ready in five steps, and anything may happen between two of them. It is a comparable
// value without pointers, so that the model check can keep millions of states and the random runs can copy them.
//
// Where a contract demands that a write which would go backward be refused, the simulated cluster refuses it: a second
// controller acts on plans of any age.

const (
	maxServers  = 3
	maxManagers = 2
	maxNodes    = 3 // two and one to surge
	maxSecrets  = 2
)

// set is a set of key versions.
type set uint8

func setOf(versions ...int) (s set) {
	for _, v := range versions {
		s |= 1 << v
	}
	return s
}

func (s set) has(version uint8) bool { return s&(1<<version) != 0 }
func (s set) min() uint8             { return uint8(bits.TrailingZeros8(uint8(s))) }
func (s set) max() uint8             { return uint8(bits.Len8(uint8(s))) - 1 }

// list are the versions of a set. The planner leaves alone what it is given, so all sets that are equal share one.
func (s set) list() []int { return lists[s] }

var lists = func() (lists [1 << 8][]int) {
	for s := range lists {
		for v := range 8 {
			if set(s).has(uint8(v)) {
				lists[s] = append(lists[s], v)
			}
		}
		lists[s] = slices.Clip(lists[s])
	}
	return lists
}()

// simKeys is Keys as a comparable value.
type simKeys struct {
	verify   set
	sign     uint8
	external bool
}

func (k simKeys) keys() Keys {
	return Keys{Verify: k.verify.list(), Sign: int(k.sign), External: k.external}
}
func simKeysOf(k Keys) simKeys { return simKeys{setOf(k.Verify...), uint8(k.Sign), k.External} }

// phase is where a process or machine is between being away and being of use.
type phase uint8

const (
	away phase = iota
	starting
	ready
	draining
)

type simServer struct {
	// listed means that its machine exists, and leaving that it is being removed for good.
	listed, leaving bool
	// outsider means that it came, or came back, with keys of an earlier stage than others had, and is not brought up yet.
	// Nobody can promise anything about such an API server but that it is brought up.
	outsider bool
	// older means that its disk was restored to keys of an earlier stage than its process runs with. The process goes on
	// as it is; once it ends, it comes back with the older keys.
	older bool
	// unseen means that it came and that the planner has not seen it yet.
	unseen              bool
	configured, running simKeys
	// loaded is what the process truly accepts and signs with: not what it was started with, if a file was bad, and not
	// yet what its signer has, if it has one.
	loaded simKeys
	// foreign means that its process accepts a foreign key, and foreignFile that its files hold it.
	foreign, foreignFile bool
	// remembers means that it still accepts tokens of a key that it has lost, for having accepted them before.
	remembers bool
	phase     phase
	// ours means that it is out because the planner named it.
	ours bool
	// proven are the key versions that the planner has ever seen it accept.
	proven set
}

// counts reports whether anything can be promised about the tokens that it issues and accepts.
func (s *simServer) counts() bool { return !s.leaving && !s.outsider }

type simManager struct {
	configured, running uint8
	ready               bool
}

type simNode struct {
	phase   phase
	version uint8
	// token is the key version of the tokens of its pods; 0 without pods.
	token uint8
	// late means that it was made on an old plan: its version is older than all its tokens.
	late bool
	// copied means that its pods started with copies of a legacy token of an older key version than the node's.
	copied bool
}

type simFleet struct {
	published, accepts set
	// certain means that every verifier has what is accepted.
	certain bool
	// proven are the key versions that the planner saw accepted last.
	proven set
	// lost means that somebody else took keys away, and that they are not back yet.
	lost bool
}

// walk is the walk over all legacy tokens and what it proved, and what the one after the nodes did. The controller
// forgets it when it restarts.
type walk struct {
	version, at, proven, final uint8
}

// shape is what never changes of a simulated cluster.
type shape struct {
	servers, managers, nodes int8
	fleet                    bool
	// slow means that the fleet's verifiers learn of a key one after another.
	slow bool
	// external means that API servers have a signer from the beginning, and converts that the spec may change that.
	external, converts bool
	// open means that API servers come and go, and are restored from backups.
	open bool
	// restores means that machines are restored from backups, and disks that only the disks of machines are, while their
	// processes run. No machines come or go then.
	restores, disks bool
	// adopted means that somebody else made the cluster.
	adopted bool
	// bare means that it has no legacy tokens.
	bare bool
	// second means that a second controller acts on plans that it made earlier.
	second bool
	// awaits means that Retire is to wait until the tokens that API servers issued have expired.
	awaits bool
	// foreign means that somebody gives API servers a foreign key, and releases it some time.
	foreign bool
	// pauses means that kubelets do not watch Secrets for a while after an API server has stopped.
	pauses bool
}

// cluster is the state of a simulated cluster.
type cluster struct {
	shape   shape
	wanted  uint8
	source  source
	stored  set
	disks   set // the key versions of which some disk holds the private key
	made    bool
	servers [maxServers]simServer
	// bootstrap is what the next API server to come starts with.
	bootstrap simKeys
	// high is the furthest stage that something ever had.
	high    uint8
	manager [maxManagers]simManager
	fleet   simFleet
	secrets [maxSecrets]uint8 // the key versions of the legacy tokens, in the order of a list; 0: no such Secret
	nodes   [maxNodes]simNode
	pdb     bool // a PodDisruptionBudget lets no pod go
	walk    walk

	// issued are the key versions of tokens that some API server issued and that nobody declared expired.
	issued set
	// overdue means that the time is over for which Retire waits for them to expire.
	overdue bool
	// released means that the user has released the foreign key.
	released bool
	// pausing means that a kubelet may not watch Secrets, since an API server has stopped.
	pausing bool
	// begun is the rank of the furthest step of this rotation of which a write was done; 0 when none was.
	begun uint8
	// completed is the key version to which a rotation was seen to end.
	completed uint8
	// old is a plan that the second controller has yet to act on.
	old oldPlan
}

// newCluster returns a cluster before anything was done about it. One that is to be adopted runs, with a key that only
// it has.
func newCluster(s shape) cluster {
	c := cluster{shape: s, wanted: 1}
	if !s.adopted {
		return c
	}
	c.converge(Target{Keys: Keys{Verify: []int{1}, Sign: 1, External: s.external}, ControllerManagerSign: 1})
	for i, s := range c.each {
		c.servers[i].phase, c.servers[i].running, c.servers[i].loaded = ready, s.configured, s.configured
	}
	for i := range c.manager[:s.managers] {
		c.manager[i] = simManager{1, 1, true}
	}
	c.noteBroughtUp()
	return c
}

// source is where the spec wants API servers to get their keys from, if not from where its shape says.
type source uint8

const (
	sourceOfShape source = iota
	otherSource
)

func (c *cluster) external() bool { return c.shape.external != (c.source == otherSource) }

func serverName(i int) string  { return [maxServers]string{"cp-0", "cp-1", "cp-2"}[i] }
func managerName(i int) string { return [maxManagers]string{"kcm-0", "kcm-1"}[i] }

// view is what an observation does not get to know, as when a canary runs into a time-out.
type view struct {
	blind      bool  // the API servers cannot be listed
	unknown    uint8 // bit i: API server i was asked about no canary token
	unsigned   uint8 // bit i: API server i issued no token
	fleetKnown bool
	lacks      string // what else the control plane is seen to lack
	unreported bool   // no signer reports which tokens live
}

var fullView = view{fleetKnown: true}

func (v view) without(server int) view {
	v.unknown |= 1 << server
	return v
}

// observe returns what the controller would observe. It remembers what was proven of each verifier, for the laws to
// hold the planner to.
func (c *cluster) observe(v view) Observed {
	o := Observed{
		Wanted: int(c.wanted), External: c.external(), Stored: c.stored.list(), Held: c.disks.list(),
		Legacy: c.observeLegacy(), Nodes: c.observeNodes(), ControlPlaneWaiting: v.lacks, Adopted: c.shape.adopted,
		Completed: c.completed == c.wanted, Outstanding: c.observeOutstanding(v),
	}
	if o.ForeignMayGo = c.retired(); c.released {
		o.ForeignMayGo = append(o.ForeignMayGo, foreignKid)
	}
	switch {
	case v.blind:
		o.Presence = PresenceUnknown
	case !c.made:
		o.Presence = PresenceAbsent
	default:
		o.Presence, o.Bootstrap = PresencePresent, c.bootstrap.keys()
		for i := range c.each {
			o.Servers = append(o.Servers, c.observeServer(i, v))
		}
		for i, m := range c.manager[:c.shape.managers] {
			if c.stored == 0 && c.shape.adopted {
				m.configured, m.running = 0, 0 // its key has no version yet
			}
			o.ControllerManagers = append(o.ControllerManagers, ControllerManager{
				Name: managerName(i), Configured: int(m.configured), Running: int(m.running), Ready: m.ready,
			})
		}
	}
	if c.shape.fleet {
		o.Publications = []Publication{c.observeFleet(v)}
	}
	return o
}

// foreignKid is the kid of the foreign key.
const foreignKid = "kid-f"

func kid(version int) string { return fmt.Sprintf("kid-%d", version) }

// retired are the kids of the key versions before those that are stored.
func (c *cluster) retired() (kids []string) {
	for v := 1; c.stored != 0 && v < int(c.stored.min()); v++ {
		kids = append(kids, kid(v))
	}
	return kids
}

func (c *cluster) observeServer(i int, v view) Server {
	s := &c.servers[i]
	o := Server{
		Name: serverName(i), Leaving: s.leaving, Configured: s.configured.keys(), Running: s.running.keys(),
		Ready:   s.phase == ready,
		Waiting: [...]string{away: "down", starting: "starting", ready: "", draining: "draining"}[s.phase],
	}
	s.unseen = false
	if c.stored == 0 && c.shape.adopted { // its key has no version yet
		o.Configured, o.Running, o.Foreign = Keys{}, Keys{}, []string{kid(1)}
		if s.phase == ready && v.unsigned&(1<<i) == 0 {
			o.SignsForeign = kid(1)
		}
		return o
	}
	if s.phase == ready && v.unsigned&(1<<i) == 0 {
		o.Signs = int(s.loaded.sign)
	}
	if s.phase == ready && v.unknown&(1<<i) == 0 {
		// A canary token can be signed only with a key that is stored.
		accepts := s.loaded.verify & c.stored
		s.proven |= accepts
		o.Accepts, o.Refuses = accepts.list(), (c.stored &^ accepts).list()
		for _, v := range (s.loaded.verify &^ c.stored).list() {
			o.Foreign = append(o.Foreign, kid(v))
		}
		if s.foreign {
			o.Foreign = append(o.Foreign, foreignKid)
		}
	}
	if s.remembers {
		o.Forgets = later
	}
	if c.pausing {
		o.WatchesBack = later
	}
	return o
}

// now is when every plan is made, and later a time after that.
var now, later = time.Unix(1000, 0), time.Unix(2000, 0)

// observeFleet sees a key version accepted only if it is published too, and refused only if it is not.
func (c *cluster) observeFleet(v view) Publication {
	f := &c.fleet
	if !v.fleetKnown { // some of it has answered
		return Publication{Name: "the fleet", Accepts: f.published.list(), Waiting: "no answer"}
	}
	accepts, refuses := f.accepts&f.published&c.stored, c.stored&^f.accepts&^f.published
	f.proven = (f.proven | accepts) &^ refuses
	p := Publication{Name: "the fleet", Accepts: accepts.list(), Refuses: refuses.list(), CertainAt: later}
	if f.certain {
		p.CertainAt = now
	}
	return p
}

func (c *cluster) observeLegacy() Legacy {
	l := Legacy{Proven: int(c.walk.proven), Final: int(c.walk.final)}
	if c.walk.version != 0 && c.walk.final != c.walk.version && (c.walk.proven != c.walk.version || c.walk.at > 0) {
		l.Waiting = fmt.Sprintf("the legacy tokens: %d of %d pages are re-signed", c.walk.at, maxSecrets)
	}
	return l
}

func (c *cluster) observeOutstanding(v view) Outstanding {
	o := Outstanding{Awaited: c.shape.awaits}
	switch {
	case !c.shape.awaits || c.stored == 0:
		return o
	case v.unreported:
	case c.issued.has(c.stored.min()):
		o.Gone, o.Waiting = later, fmt.Sprintf("tokens of key version %d to expire", c.stored.min())
	default:
		o.Gone = now
	}
	if c.overdue {
		o.Limit = now
	}
	return o
}

func (c *cluster) observeNodes() Nodes {
	if !c.serves() {
		return Nodes{Waiting: "an API server to be ready"}
	}
	o := Nodes{Converged: true}
	present := int8(0)
	for i, n := range c.nodes {
		if n.phase == away {
			continue
		}
		present++
		if o.Oldest == 0 || int(n.version) < o.Oldest {
			o.Oldest = int(n.version)
		}
		switch {
		case n.phase == draining && c.pdb:
			o.Waiting, o.Blocked = fmt.Sprintf("PodDisruptionBudget default/web lets no pod of node-%d go: allow a disruption",
				i), true
		case n.phase == draining && !o.Blocked:
			o.Waiting = fmt.Sprintf("node-%d to be drained", i)
		case n.phase == starting && !o.Blocked:
			o.Waiting = fmt.Sprintf("node-%d to be ready", i)
		}
		o.Converged = o.Converged && n.phase == ready
	}
	o.Converged = o.Converged && present == c.shape.nodes
	return o
}

// serves reports whether some API server does.
func (c *cluster) serves() bool {
	return c.anyServer(func(s simServer) bool { return s.phase == ready })
}

// each yields every API server that is listed.
func (c *cluster) each(yield func(int, *simServer) bool) {
	for i := range int(c.shape.servers) {
		if c.servers[i].listed && !yield(i, &c.servers[i]) {
			return
		}
	}
}

// execute does the one external write of a decision.
func (c *cluster) execute(d Decision) {
	switch a := d.Action; a.Kind {
	case GenerateKey, AdoptKey:
		c.stored |= setOf(a.Version)
	case ConvergeControlPlane:
		c.converge(a.Target)
	case PublishKeys:
		c.publish(setOf(a.Publish...))
	case RefreshTokens:
		c.refresh(uint8(a.Version))
	case ConvergeNodes:
		c.convergeNodes(uint8(a.Version))
	case DeleteKey:
		c.stored &^= setOf(a.Version)
	}
	c.noteBegun(d)
	c.noteBroughtUp()
}

// publish refuses to go backward: what is published is [n], [n,n+1], [n+1] …
func (c *cluster) publish(keys set) {
	stage := func(s set) int { return int(s.min()) + int(s.max()) }
	if c.fleet.published == keys || c.fleet.published != 0 && stage(keys) < stage(c.fleet.published) {
		return
	}
	c.fleet.published, c.fleet.certain = keys, !c.shape.slow
}

// noteBegun remembers the furthest step of which a write was done.
func (c *cluster) noteBegun(d Decision) {
	switch {
	case bits.OnesCount8(uint8(c.stored)) < 2:
		c.begun, c.overdue = 0, false
	case d.Action.Kind == GenerateKey:
		c.begun = rank(StepPublish)
	case c.has(func(k simKeys) bool { return k.verify == setOf(int(c.stored.max())) }):
		c.begun = rank(StepRetire)
		c.issued &= setOf(int(c.stored.max())) // from here on tokens of the old key are over
	case d.Action.Kind == RefreshTokens || d.Action.Kind == ConvergeNodes:
		c.begun = rank(StepRefresh)
	case c.begun < rank(StepSwitch) && c.has(func(k simKeys) bool { return k.sign == c.stored.max() }):
		c.begun = rank(StepSwitch)
	}
}

// noteLess remembers that nothing shows any more how far a rotation had come.
func (c *cluster) noteLess() {
	newest := c.stored.max()
	shown := func(f func(simKeys) bool) bool {
		return c.has(f) || c.anyServer(func(s simServer) bool { return f(s.running) })
	}
	if c.begun == rank(StepRetire) && !shown(func(k simKeys) bool { return k.verify == setOf(int(newest)) }) {
		c.begun = rank(StepRefresh)
	}
	managers := slices.ContainsFunc(c.manager[:], func(m simManager) bool { return m.configured == newest })
	if c.begun == rank(StepRefresh) && !managers {
		c.begun = rank(StepSwitch)
	}
	if c.begun == rank(StepSwitch) && !shown(func(k simKeys) bool { return k.sign == newest }) && !managers {
		c.begun = rank(StepPublish)
	}
}

// noteBroughtUp remembers how far keys have come, and that API servers have caught up with them.
func (c *cluster) noteBroughtUp() {
	if !c.shape.open && !c.shape.restores && !c.shape.disks {
		return
	}
	c.high = max(c.high, uint8(c.bootstrap.keys().Stage()))
	for _, s := range c.each {
		c.high = max(c.high, uint8(s.configured.keys().Stage()))
	}
	for _, s := range c.each {
		stage := uint8(min(s.loaded.keys().Stage(), s.configured.keys().Stage()))
		s.outsider = s.outsider && (s.phase == away || stage < c.high)
	}
}

func (c *cluster) anyServer(f func(simServer) bool) bool {
	for _, s := range c.each {
		if f(*s) {
			return true
		}
	}
	return false
}

// has reports whether an API server, or the next one to come, is to have such keys.
func (c *cluster) has(f func(simKeys) bool) bool {
	return f(c.bootstrap) || c.anyServer(func(s simServer) bool { return f(s.configured) })
}

// inOrder are the steps in their order, from none.
var inOrder = []Step{"", StepGenerate, StepPublish, StepSwitch, StepRefresh, StepRetire}

// rank is the position of a step in that order.
func rank(s Step) uint8 { return uint8(slices.Index(inOrder, s)) }
