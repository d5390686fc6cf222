package rotation

import "slices"

// What the adapters of control plane, legacy tokens and nodes do to the simulated cluster, one small step at a time.

// converge is one call of controlplane.Adapter.Converge, which keeps to Next and does one small step to each process.
func (c *cluster) converge(t Target) {
	want := simKeysOf(t.Keys)
	if !c.made {
		c.made = true
		for i := range int(c.shape.servers) {
			c.servers[i] = simServer{listed: true, configured: want}
		}
		for i := range int(c.shape.managers) {
			c.manager[i].configured = uint8(t.ControllerManagerSign)
		}
		if c.shape.open {
			c.bootstrap = want
		}
		c.disks |= c.used()
		return
	}
	if c.isStale(t) {
		return
	}
	if t.Bootstrap && t.Keys.Stage() >= c.bootstrap.keys().Stage() {
		c.bootstrap = want
	}
	for i, s := range c.each {
		next := t.Next == serverName(i)
		s.converge(want, next, t.Live, c.mayGo(i, t), slices.Contains(t.DropForeign, foreignKid))
	}
	for i := range int(c.shape.managers) {
		c.manager[i].converge(uint8(t.ControllerManagerSign))
	}
	// The controller hands over the keys that are to be used and those that are; any other goes from the disks.
	c.disks = c.disks&(c.used()|want.verify) | c.used()
}

// isStale reports whether something is to be further than a target already. Nothing changes then.
func (c *cluster) isStale(t Target) bool {
	for _, m := range c.manager {
		if int(m.configured) > t.ControllerManagerSign {
			return true
		}
	}
	return c.anyServer(func(s simServer) bool { return s.configured.keys().Stage() > t.Keys.Stage() })
}

// mayGo reports whether an API server may be taken out, whoever asks for it: one at a time, unless it lags behind.
func (c *cluster) mayGo(i int, t Target) bool {
	if c.servers[i].outsider && c.servers[i].running.keys().lags(t.Keys) {
		return true
	}
	for j, s := range c.each {
		if j != i && !s.leaving && s.phase != ready {
			return false
		}
	}
	return true
}

func (s *simServer) converge(want simKeys, next, live, mayGo, drop bool) {
	changes := next || live && s.configured.external && want.external
	if want.external && s.foreign && !drop {
		changes = false // no signer has that key
	}
	switch {
	case changes && (s.configured != want || drop && s.foreignFile):
		s.configured, s.foreignFile = want, s.foreignFile && !drop
		s.older = s.older && want.keys().Stage() < s.running.keys().Stage()
		if s.running.external && want.external {
			s.running = want
		}
	case s.phase == away:
		s.start()
	case next && mayGo && (s.running != s.configured || s.foreign && !s.foreignFile) && s.phase != draining &&
		!(s.running.external && s.configured.external):
		s.phase, s.ours = draining, !s.outsider
	}
}

func (s *simServer) start() {
	s.phase, s.running, s.loaded = starting, s.configured, s.configured
	s.foreign = s.foreignFile && !s.configured.external
}

func (m *simManager) converge(sign uint8) {
	switch {
	case m.configured != sign:
		m.configured = sign
	case m.running == 0:
		m.running = sign
	case m.running != sign:
		*m = simManager{configured: sign}
	}
}

// used are the key versions that some process runs with or is configured with.
func (c *cluster) used() (s set) {
	for _, v := range c.each {
		s |= v.configured.verify | v.running.verify
	}
	for _, m := range c.manager {
		s |= setOf(int(m.configured), int(m.running))
	}
	return s &^ setOf(0)
}

// refresh walks one page, or begins the walk. It leaves alone what is signed with a later key. A walk that ends
// once the nodes are of the version is the final one.
func (c *cluster) refresh(version uint8) {
	w := &c.walk
	switch {
	case !c.serves() || w.final == version:
	case w.version != version:
		*w = walk{version: version}
	case w.at < maxSecrets:
		if c.secrets[w.at] != 0 {
			c.secrets[w.at] = max(c.secrets[w.at], version)
		}
		w.at++
	default:
		*w = walk{version: version, proven: version}
		if o := c.observeNodes(); o.Converged && (o.Oldest == 0 || o.Oldest >= int(version)) {
			w.final = version
		}
	}
}

// convergeNodes is one call of nodes.Adapter.Converge: a new node first, then drain, then delete.
func (c *cluster) convergeNodes(version uint8) {
	if !c.serves() {
		return
	}
	present, current, idle := int8(0), int8(0), true
	spare, old := -1, -1
	for i, n := range c.nodes {
		switch {
		case n.phase == away && spare < 0:
			spare = i
		case n.phase != away:
			present++
			idle = idle && n.phase == ready
		}
		switch {
		case n.phase != away && n.version >= version:
			current++
		case n.phase == ready && old < 0:
			old = i
		}
	}
	switch {
	case current < c.shape.nodes && present <= c.shape.nodes && spare >= 0:
		c.nodes[spare] = simNode{phase: starting, version: version}
	case present > c.shape.nodes && idle && old >= 0:
		c.nodes[old].phase = draining
	}
}
