package rotation

import "slices"

// oldPlan is the action of a decision as a comparable value: what a second controller is about to do.
type oldPlan struct {
	kind            uint8 // the number of an action kind
	version         uint8
	publish         set
	keys            simKeys
	next            uint8 // the number of an API server, counted from 1; 0: none
	live, bootstrap bool
	managers        uint8
}

// kinds are the kinds of actions, from none.
var kinds = []ActionKind{
	"", Wait, AdoptKey, GenerateKey, ConvergeControlPlane, PublishKeys, RefreshTokens, ConvergeNodes, WriteKubeconfig,
	DeleteKey,
}

func oldPlanOf(a Action) oldPlan {
	t := a.Target
	p := oldPlan{
		kind: uint8(slices.Index(kinds, a.Kind)), version: uint8(a.Version), publish: setOf(a.Publish...),
		keys: simKeysOf(t.Keys), live: t.Live, bootstrap: t.Bootstrap, managers: uint8(t.ControllerManagerSign),
	}
	for i := range maxServers {
		if t.Next == serverName(i) {
			p.next = uint8(i) + 1
		}
	}
	return p
}

// executeOld has the second controller act on its plan, and forget it.
func (c *cluster) executeOld() {
	p := c.old
	c.old = oldPlan{}
	switch kinds[p.kind] {
	case GenerateKey:
		c.stored |= setOf(int(p.version))
	case ConvergeControlPlane:
		if !c.made { // it was absent when the plan was made, too
			return
		}
		next := ""
		if p.next > 0 {
			next = serverName(int(p.next) - 1)
		}
		c.converge(Target{
			Keys: p.keys.keys(), Next: next, Live: p.live, Bootstrap: p.bootstrap, ControllerManagerSign: int(p.managers),
		})
	case PublishKeys:
		c.publish(p.publish)
	case RefreshTokens:
		for i, v := range c.secrets {
			if v != 0 && c.serves() {
				c.secrets[i] = max(v, p.version)
			}
		}
	case ConvergeNodes:
		was := c.nodes
		c.convergeNodes(p.version)
		for i, n := range c.nodes {
			c.nodes[i].late = n.late || was[i].phase == away && n.phase != away && n.version < c.newestSign()
		}
	case DeleteKey:
		c.stored &^= setOf(int(p.version))
	}
	c.noteBegun(Decision{})
}

// newestSign is the latest key version that an API server is to sign with.
func (c *cluster) newestSign() (version uint8) {
	for _, s := range c.each {
		version = max(version, s.configured.sign)
	}
	return version
}
