package rotation

import (
	"fmt"
	"strings"
	"testing"
)

// The model check visits every state that small clusters can get into, whatever happens in whatever order, from
// before their creation to the end of a rotation. It holds each to the laws, and from each the end must be within
// reach by what happens by itself, with nothing more broken and nobody helping.

// move is an event, or a round of the controller if it has a view.
type move struct {
	event event
	view  *view
}

func (m move) String() string {
	if m.view == nil {
		return m.event.String()
	}
	return fmt.Sprintf("a round with the view %+v", *m.view)
}

// edge leads to a state from another.
type edge struct {
	from int32
	move move
}

// model is what is known of all states of a cluster.
type model struct {
	plan   planner
	index  map[cluster]int32
	states []cluster
	first  []edge    // by which each state was found
	back   [][]int32 // the states from which each can be reached by itself
	ends   []int32
}

// explore visits all states. An error tells how the state came about that breaks a law.
func (m *model) explore(start cluster, last uint8) error {
	m.index = map[cluster]int32{}
	m.visit(start, edge{from: -1})
	views := start.views()
	for i := int32(0); i < int32(len(m.states)); i++ {
		var err error
		try := func(mv move) bool {
			was := m.states[i]
			next := trial{cluster: was, plan: m.plan}
			if err = next.move(mv); err != nil {
				err = fmt.Errorf("%w, after\n%s", err, m.path(i, mv))
				return false
			}
			id := m.visit(next.cluster, edge{i, mv})
			if mv.byItself() {
				m.back[id] = append(m.back[id], i)
			}
			return true
		}
		for e := range m.states[i].events {
			if m.within(e, last) && !try(move{event: e}) {
				return err
			}
		}
		for v := range views {
			if m.states[i].sees(views[v]) && !try(move{view: &views[v]}) {
				return err
			}
		}
		if c := &m.states[i]; c.wanted == last && c.checkSettled() == nil && c.disks == c.stored {
			m.ends = append(m.ends, i)
		}
	}
	return m.checkEnds()
}

// within leaves out what only makes more states that are alike: versions after the last, and disruption budgets.
func (m *model) within(e event, last uint8) bool {
	return e.kind != budgetSpent && (e.kind != versionRaised || uint8(e.at) <= last)
}

// views are what a round may not get to know: all is known, or nothing, or all but one.
func (c *cluster) views() []view {
	all := uint8(1)<<c.shape.servers - 1
	views := []view{fullView, {blind: true, fleetKnown: true}, {unknown: all, unsigned: all}}
	if c.shape.fleet {
		views = append(views, view{})
	}
	for i := range int(c.shape.servers) {
		if c.shape.servers > 1 {
			views = append(views, fullView.without(i))
		}
	}
	return views
}

// byItself says that the move happens some time with nobody's help, once somebody has started the rotation.
func (m move) byItself() bool {
	if m.view != nil {
		return *m.view == fullView
	}
	return m.event.kind <= lastProgress || m.event.kind == versionRaised
}

// sees says that a view of this state hides something that could be seen, or hides nothing.
func (c *cluster) sees(v view) bool {
	hides := !v.fleetKnown || v.blind && c.made
	for i, s := range c.servers {
		hides = hides || s.phase == ready && v.unknown&(1<<i) != 0
	}
	return hides || v == fullView
}

func (t *trial) move(m move) error {
	if m.view != nil {
		_, err := t.act(*m.view, nil, false)
		return err
	}
	return t.happen(m.event)
}

func (m *model) visit(c cluster, by edge) int32 {
	if id, ok := m.index[c]; ok {
		return id
	}
	id := int32(len(m.states))
	m.index[c] = id
	m.states = append(m.states, c)
	m.first = append(m.first, by)
	m.back = append(m.back, nil)
	return id
}

// checkEnds finds a state from which no end is within reach.
func (m *model) checkEnds() error {
	reached := make([]bool, len(m.states))
	queue := m.ends
	for _, id := range queue {
		reached[id] = true
	}
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		for _, from := range m.back[id] {
			if !reached[from] {
				reached[from] = true
				queue = append(queue, from)
			}
		}
	}
	for id, ok := range reached {
		if !ok {
			return fmt.Errorf("%w for ever, after\n%s", errNotSettled, m.path(int32(id)))
		}
	}
	return nil
}

// path tells how a state came about.
func (m *model) path(id int32, then ...move) string {
	var lines []string
	for _, mv := range then {
		lines = append(lines, m.tell(id, mv))
	}
	for ; m.first[id].from >= 0; id = m.first[id].from {
		lines = append([]string{m.tell(m.first[id].from, m.first[id].move)}, lines...)
	}
	return strings.Join(lines, "\n")
}

// tell says what a move was, and for a round what was decided.
func (m *model) tell(from int32, mv move) string {
	if mv.view == nil {
		return mv.String()
	}
	c := m.states[from]
	return fmt.Sprintf("%v: %v", mv, told{m.plan(c.observe(*mv.view))})
}

// TestAllStates checks every state of small clusters.
func TestAllStates(t *testing.T) {
	for _, s := range []shape{
		{servers: 1, managers: 1, nodes: 1, fleet: true, slow: true},
		{servers: 2},
		{servers: 1, managers: 1, nodes: 1, external: true},
		{servers: 2, managers: 1, fleet: true, external: true},
		{servers: 2, external: true, converts: true},
		{servers: 2, managers: 1, nodes: 1, fleet: true},
		{servers: 2, open: true, bare: true},
		{servers: 1, managers: 1, restores: true},
		{servers: 2, managers: 1, restores: true, bare: true},
		{servers: 2, managers: 1, adopted: true},
		{servers: 2, external: true, open: true, bare: true},
		{servers: 1, managers: 1, second: true},
		{servers: 2, second: true},
		{servers: 1, external: true, fleet: true, second: true},
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			if testing.Short() && s.servers > 1 && s.nodes > 0 {
				t.Skip("it takes some seconds")
			}
			m := model{plan: plan}
			if err := m.explore(newCluster(s), 2); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states", len(m.states))
		})
	}
}
