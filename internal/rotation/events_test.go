package rotation

import (
	"fmt"
	"slices"
	"strings"
)

// eventKind is a kind of thing that happens in a cluster without the planner.
type eventKind uint8

const (
	// What moves the cluster on. Each happens some time, once it can.
	serverStopped eventKind = iota // a drained API server ends
	serverReady
	serverReloaded // somebody repairs the key files of an API server and ends it
	serverLoads    // an API server gets the keys that its signer has
	serverForgets  // it forgets which tokens it has accepted
	managerReady
	fleetSpread   // what was published reaches a verifier of the fleet
	fleetCertain  // it has reached all of them
	nodeReady     // pods start there, with tokens from API server `by`
	serverGone    // a machine of the control plane is removed
	serverStarted // a kubelet starts an API server that is not ours yet
	tokensExpired // those of keys that nothing signs with any more
	nodeGone
	watchesBack // kubelets watch Secrets again

	// What clients do, at any time.
	tokenIssued     // API server `at` answers a TokenRequest
	podRefreshed    // the kubelet of node `at` gets new tokens from API server `by`
	secretFilled    // kube-controller-manager `by` signs a legacy token into Secret `at`
	secretDeleted   // somebody deletes it
	versionRaised   // somebody starts the next rotation
	sourceChanged   // somebody gives the API servers a signer, or takes it away
	serverJoins     // a machine joins the control plane, with keys that bootstrap material held `by` stages ago
	serverLeaves    // somebody removes a machine of the control plane for good
	secondPlans     // a second controller makes a plan
	secondActs      // it acts on the plan that it made
	limitPassed     // the time is over for which Retire waits for tokens to expire
	foreignReleased // somebody releases the foreign key
	budgetReleased  // somebody allows a disruption again

	// What breaks.
	serverDied
	serverMisloaded // an API server starts with bad key files
	serverRestored  // a machine of the control plane comes back as it was `by` stages ago
	diskRestored    // only its disk does, while its API server runs
	managerDied
	nodeDied
	nodeLost // with its disk
	budgetSpent
	fleetLost    // somebody deletes the membership
	foreignAdded // somebody gives an API server a foreign key, and starts it again
	controllerDied
)

// The last kind of each sort.
const (
	lastProgress = watchesBack
	lastUse      = budgetReleased
	lastKind     = controllerDied
)

// event is one thing that happens.
type event struct {
	kind eventKind
	at   int8
	by   int8
}

func (e event) String() string {
	texts := [...]string{
		serverStopped: "API server cp-%d stops", serverReady: "API server cp-%d is ready",
		serverReloaded: "API server cp-%d is repaired",
		serverLoads:    "API server cp-%d asks its signer", serverForgets: "API server cp-%d forgets what it has accepted",
		managerReady: "kube-controller-manager kcm-%d is ready", fleetSpread: "the fleet has what was published",
		fleetCertain: "all of the fleet has it",
		nodeReady:    "node-%d is ready, by cp-%d", nodeGone: "node-%d is gone", watchesBack: "kubelets watch again",
		tokenIssued: "cp-%d issues a token", podRefreshed: "the pods of node-%d get tokens from cp-%d",
		secretFilled: "Secret %d gets a legacy token from kcm-%d", secretDeleted: "Secret %d is deleted",
		versionRaised: "version %d is wanted", sourceChanged: "the other source of keys is wanted",
		budgetReleased: "a PodDisruptionBudget allows a disruption again",
		serverDied:     "API server cp-%d dies", serverMisloaded: "API server cp-%d starts with bad key files",
		managerDied: "kube-controller-manager kcm-%d dies", nodeDied: "node-%d dies", nodeLost: "node-%d is lost",
		serverStarted: "a kubelet starts API server cp-%d",
		tokensExpired: "the tokens of earlier keys expire", limitPassed: "the limit passes",
		serverGone: "the machine of API server cp-%d is gone", serverLeaves: "the machine of API server cp-%d is to go",
		serverJoins:    "a machine joins as API server cp-%d, with keys of %d stages ago",
		serverRestored: "API server cp-%d is restored from %d stages ago",
		diskRestored:   "the disk of API server cp-%d is restored from %d stages ago",
		secondPlans:    "a second controller plans", secondActs: "the second controller acts on its plan",
		budgetSpent: "a PodDisruptionBudget allows no disruption", controllerDied: "the controller restarts",
		fleetLost: "somebody deletes the membership", foreignReleased: "somebody releases the foreign key",
		foreignAdded: "somebody gives API server cp-%d a foreign key, and starts it again",
	}
	if slices.Contains([]eventKind{nodeReady, podRefreshed, secretFilled, serverJoins, serverRestored, diskRestored},
		e.kind) {
		return fmt.Sprintf(texts[e.kind], e.at, e.by)
	}
	if strings.Contains(texts[e.kind], "%d") {
		return fmt.Sprintf(texts[e.kind], e.at)
	}
	return texts[e.kind]
}

// progress are the events that move the cluster on and can happen now.
func (c *cluster) progress() (events []event) {
	for e := range c.events {
		if e.kind <= lastProgress {
			events = append(events, e)
		}
	}
	return events
}

// events yields every event that can happen now.
func (c *cluster) events(yield func(event) bool) {
	ok := true
	add := func(can bool, kind eventKind, at, by int8) {
		if ok && can {
			ok = yield(event{kind, at, by})
		}
	}
	for i := range c.shape.servers {
		if c.servers[i].listed {
			c.serverEvents(i, add)
		}
		if c.shape.open || c.shape.restores || c.shape.disks {
			c.machineEvents(i, add)
		}
	}
	add(c.shape.second && c.old == oldPlan{}, secondPlans, 0, 0)
	add(c.old != oldPlan{}, secondActs, 0, 0)
	for i := range c.shape.managers {
		m := c.manager[i]
		add(m.running != 0 && !m.ready, managerReady, i, 0)
		add(m.running != 0, managerDied, i, 0)
		for secret := range int8(maxSecrets) {
			add(m.ready && c.serves() && c.secrets[secret] == 0 && !c.shape.bare, secretFilled, secret, i)
		}
	}
	for secret, v := range c.secrets {
		add(v != 0 && c.serves(), secretDeleted, int8(secret), 0)
	}
	add(c.fleet.accepts != c.fleet.published, fleetSpread, 0, 0)
	add(c.fleet.accepts == c.fleet.published && c.fleet.published != 0 && !c.fleet.certain, fleetCertain, 0, 0)
	add(c.fleet.published != 0 && !c.shape.second, fleetLost, 0, 0) // no fence holds a switch that was planned before
	for i := range c.nodes {
		c.nodeEvents(int8(i), add)
	}
	add(c.pausing, watchesBack, 0, 0)
	add(c.wanted == c.stored.max() && c.stored != 0, versionRaised, int8(c.wanted+1), 0)
	add(c.shape.converts && c.stored == setOf(int(c.wanted)), sourceChanged, 0, 0)
	add(c.shape.awaits && c.expirable() != 0, tokensExpired, 0, 0)
	add(c.shape.awaits && c.begun == rank(StepRefresh) && !c.overdue, limitPassed, 0, 0)
	add(c.shape.foreign && !c.released, foreignReleased, 0, 0)
	add(c.pdb, budgetReleased, 0, 0)
	add(!c.pdb && c.shape.nodes > 0, budgetSpent, 0, 0)
	add(c.walk != walk{}, controllerDied, 0, 0)
}

// expirable are the key versions of issued tokens with which no more will be signed.
func (c *cluster) expirable() set {
	gone := c.issued &^ c.held()
	for _, s := range c.each {
		gone &^= setOf(int(s.configured.sign), int(s.running.sign), int(s.loaded.sign))
	}
	for _, n := range c.nodes {
		gone &^= setOf(int(n.token))
	}
	return gone
}

func (c *cluster) serverEvents(i int8, add func(bool, eventKind, int8, int8)) {
	s := c.servers[i]
	add(s.phase == draining, serverStopped, i, 0)
	add(s.phase == starting, serverReady, i, 0)
	add(s.phase == ready && s.loaded != s.running && !s.running.external, serverReloaded, i, 0)
	add(s.phase != away && s.loaded != s.running && s.running.external, serverLoads, i, 0)
	add(s.remembers, serverForgets, i, 0)
	add(s.phase == away && c.shape.adopted && c.stored == 0, serverStarted, i, 0)
	add(s.phase != away && s.counts() && !c.issued.has(s.loaded.sign), tokenIssued, i, 0)
	add(s.phase != away, serverDied, i, 0)
	add(c.shape.foreign && s.phase == ready && !s.foreignFile && c.stored != 0, foreignAdded, i, 0)
	misloads := s.phase == starting && s.loaded == s.running && !s.running.external && c.stored.min() != c.stored.max()
	add(misloads && !c.shape.second, serverMisloaded, i, 0) // no fence holds a deletion that was planned before
}

// machineEvents are about machines of the control plane that come and go.
func (c *cluster) machineEvents(i int8, add func(bool, eventKind, int8, int8)) {
	s := c.servers[i]
	staying := 0
	for _, other := range c.each {
		if !other.leaving {
			staying++
		}
	}
	add(s.leaving, serverGone, i, 0)
	add(s.listed && !s.leaving && staying > 1 && c.shape.open, serverLeaves, i, 0)
	for ago := range int8(3) {
		_, ok := c.bootstrap.earlier(ago)
		add(c.made && !s.listed && ok && c.shape.open, serverJoins, i, ago)
		_, ok = s.configured.earlier(ago)
		restorable := s.listed && ago > 0 && ok && !c.untold()
		add(restorable && (c.shape.open || c.shape.restores), serverRestored, i, ago)
		add(restorable && c.shape.disks && s.phase != away, diskRestored, i, ago)
	}
}

// untold reports whether a key is retired and nobody has noted that yet. It is so for one round. A machine that is
// restored just then, with no other beside it, looks like one whose key was lost.
func (c *cluster) untold() bool {
	return (c.shape.restores || c.shape.disks) && c.wanted > 1 && c.stored.min() == c.stored.max() &&
		c.completed != c.wanted
}

// earlier returns the keys of so many stages ago.
func (k simKeys) earlier(stages int8) (simKeys, bool) {
	for ; stages > 0; stages-- {
		oldest := int(k.verify.min())
		switch k.keys().Stage() - 3*oldest {
		case 0:
			k.verify, k.sign = setOf(oldest-1, oldest), uint8(oldest)
		case 1:
			k.verify = setOf(oldest)
		case 2:
			k.sign = uint8(oldest)
		}
	}
	return k, k.verify != 0 && k.verify.min() > 0
}

func (c *cluster) nodeEvents(i int8, add func(bool, eventKind, int8, int8)) {
	n := c.nodes[i]
	add(n.phase == draining && !c.pdb && c.serves(), nodeGone, i, 0)
	for by := range c.shape.servers {
		s := c.servers[by]
		add(n.phase == starting && s.phase == ready && s.counts(), nodeReady, i, by)
		add((n.phase == ready || n.phase == draining) && s.phase == ready && s.counts() && s.loaded.sign != n.token,
			podRefreshed, i, by)
	}
	add(n.phase == ready || n.phase == draining, nodeDied, i, 0)
	add(n.phase != away, nodeLost, i, 0)
}

// happen lets an event happen.
func (c *cluster) happen(e event) {
	i := e.at
	switch e.kind {
	case serverStopped, serverReloaded, serverDied:
		c.pausing = c.shape.pauses
		older := c.servers[i].older
		c.servers[i].stop()
		if older {
			c.noteLess() // only its process may have shown how far the rotation had come
		}
	case foreignAdded:
		c.pausing = c.shape.pauses
		c.servers[i].foreignFile = true
		c.servers[i].stop()
	case foreignReleased:
		c.released = true
	case serverStarted:
		c.servers[i].start()
	case serverReady:
		c.servers[i].phase, c.servers[i].ours = ready, false
	case serverLoads:
		c.servers[i].load()
	case serverForgets:
		c.servers[i].remembers = false
	case serverMisloaded:
		c.servers[i].misload(c.stored)
	case serverJoins:
		keys, _ := c.bootstrap.earlier(e.by)
		c.servers[i] = simServer{
			listed: true, unseen: true, outsider: e.by > 0, configured: keys, running: keys, loaded: keys, phase: starting,
		}
		c.disks |= c.used()
		if e.by > 0 && c.shape.managers == 0 && c.begun == rank(StepRefresh) {
			c.begun = rank(StepSwitch) // no kube-controller-manager shows that the others have switched
		}
	case serverRestored:
		keys, _ := c.servers[i].configured.earlier(e.by)
		c.servers[i] = simServer{listed: true, leaving: c.servers[i].leaving, outsider: true, configured: keys}
		c.disks |= c.used()
		c.noteLess()
	case diskRestored:
		c.servers[i].restoreDisk(e.by)
		c.disks |= c.used()
		c.noteLess()
	case serverLeaves:
		c.servers[i].leaving, c.servers[i].ours = true, false
	case serverGone:
		c.servers[i] = simServer{}
		c.noteLess()
	case secondActs:
		c.executeOld()
	case managerReady:
		c.manager[i].ready = true
	case managerDied:
		c.manager[i] = simManager{configured: c.manager[i].configured}
	case fleetSpread:
		c.fleet.accepts, c.fleet.lost = c.fleet.published, false
	case fleetCertain:
		c.fleet.certain = true
	case fleetLost:
		c.fleet.published, c.fleet.accepts, c.fleet.certain, c.fleet.lost = 0, 0, !c.shape.slow, true
	case nodeReady:
		c.nodes[i].phase = ready
		c.nodes[i].copied = c.copies(c.nodes[i].version)
		c.issueTo(i, e.by)
	case podRefreshed:
		c.issueTo(i, e.by)
	case nodeGone, nodeLost:
		c.nodes[i] = simNode{}
	case nodeDied:
		c.nodes[i].phase = starting
	case watchesBack:
		c.pausing = false
	case tokenIssued:
		c.issued |= setOf(int(c.servers[i].loaded.sign))
	case secretFilled:
		c.secrets[i] = c.manager[e.by].running
	case secretDeleted:
		c.secrets[i] = 0
	case versionRaised:
		c.wanted = uint8(e.at)
	case sourceChanged:
		c.source = otherSource - c.source
	case tokensExpired:
		c.issued &^= c.expirable()
	case limitPassed:
		c.overdue = true
	case budgetReleased, budgetSpent:
		c.pdb = e.kind == budgetSpent
	case controllerDied:
		c.walk = walk{}
	}
	c.noteBroughtUp()
}

// stop ends the process. It is out because of us until it is ready again only if we took it out.
func (s *simServer) stop() {
	s.phase, s.running, s.loaded, s.remembers, s.foreign = away, simKeys{}, simKeys{}, false, false
	s.outsider, s.older = s.outsider || s.older, false
}

// restoreDisk gives the machine the keys that it had so many stages ago. A process that read its key files goes on with
// them; one with a signer gets what that reads now.
func (s *simServer) restoreDisk(stages int8) {
	s.configured, _ = s.configured.earlier(stages)
	if s.running.external {
		s.running, s.outsider = s.configured, true
		return
	}
	s.older = true
}

// load gives the process the keys that its signer has.
func (s *simServer) load() {
	s.remembers = s.remembers || s.loaded.verify&^s.running.verify != 0
	s.loaded = s.running
}

// misload has the process lose the key that it does not sign with, or keep one that it was to lose.
func (s *simServer) misload(stored set) {
	s.loaded.verify = setOf(int(s.loaded.sign))
	if s.running.verify == s.loaded.verify {
		s.loaded.verify = stored
	}
}

// copies reports whether a pod that starts now may copy a legacy token of an older key version.
func (c *cluster) copies(version uint8) bool {
	return slices.ContainsFunc(c.secrets[:], func(v uint8) bool { return v != 0 && v < version })
}

// issueTo gives the pods of a node tokens from an API server.
func (c *cluster) issueTo(node, server int8) {
	c.nodes[node].token = c.servers[server].loaded.sign
	c.issued |= setOf(int(c.nodes[node].token))
}
