package rotation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The model check visits every state that small clusters can get into, by any events in any order, from before their
// creation to the end of a rotation. It holds each to the laws, and from each the end must be within reach by what
// happens on its own, with nothing more broken and nobody helping.

// move is an event, or a round of the controller with one of the views of the model. It has no pointers, like all that
// there is millions of, so that the garbage collector leaves it alone.
type move struct {
	event event
	// view is the index of a view, and -1 for an event.
	view int8
}

// edge leads to a state from another.
type edge struct {
	from int32
	move move
}

// pair is two states; the second follows the first without help.
type pair struct{ from, to int32 }

// model is what is known of all states of a cluster.
type model struct {
	plan   planner
	views  []view
	index  map[cluster]int32
	states []cluster
	first  []edge // by which each state was found
	pairs  []pair
	ends   []int32
}

// explore visits all states. An error has the moves that lead to a state that breaks a law.
func (m *model) explore(start cluster, last uint8) error {
	m.index, m.views = map[cluster]int32{}, start.views()
	m.visit(start, edge{from: -1})
	for i := int32(0); i < int32(len(m.states)); i++ {
		if err := m.leave(i, last); err != nil {
			return err
		}
		if c := &m.states[i]; c.wanted == last && c.checkSettled() == nil && c.disks == c.stored {
			m.ends = append(m.ends, i)
		}
	}
	return m.checkEnds()
}

// leave makes every move that a state allows.
func (m *model) leave(i int32, last uint8) error {
	was := m.states[i]
	for e := range was.events {
		if !m.within(e, last) {
			continue
		}
		if err := m.try(i, &was, move{event: e, view: -1}); err != nil {
			return err
		}
	}
	for v := range m.views {
		if !was.sees(m.views[v]) {
			continue
		}
		if err := m.try(i, &was, move{view: int8(v)}); err != nil {
			return err
		}
	}
	return nil
}

// try makes one move from a state.
func (m *model) try(from int32, was *cluster, mv move) error {
	next := trial{cluster: *was, plan: m.plan}
	if err := m.move(&next, mv); err != nil {
		return fmt.Errorf("%w, after\n%s", err, m.path(from, mv))
	}
	id := m.visit(next.cluster, edge{from, mv})
	if m.byItself(mv) && id != from {
		m.pairs = append(m.pairs, pair{from, id})
	}
	return nil
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
	if c.shape.awaits {
		views = append(views, view{fleetKnown: true, unreported: true})
	}
	for i := range int(c.shape.servers) {
		if c.shape.servers > 1 {
			views = append(views, fullView.without(i))
		}
	}
	return views
}

// byItself reports whether the move happens at some time without help, once a user has started the rotation and
// released foreign keys.
func (m *model) byItself(mv move) bool {
	if mv.view >= 0 {
		return m.views[mv.view] == fullView
	}
	return mv.event.kind <= lastProgress || mv.event.kind == versionRaised || mv.event.kind == foreignReleased
}

// sees reports whether a view of this state hides something that could be seen, or hides nothing.
func (c *cluster) sees(v view) bool {
	hides := !v.fleetKnown || v.blind && c.made || v.unreported
	for i, s := range c.servers {
		hides = hides || s.phase == ready && v.unknown&(1<<i) != 0
	}
	return hides || v == fullView
}

func (m *model) move(t *trial, mv move) error {
	if mv.view >= 0 {
		_, err := t.act(m.views[mv.view], nil, false)
		return err
	}
	return t.happen(mv.event)
}

func (m *model) visit(c cluster, by edge) int32 {
	if id, ok := m.index[c]; ok {
		return id
	}
	id := int32(len(m.states))
	m.index[c] = id
	m.states = append(m.states, c)
	m.first = append(m.first, by)
	return id
}

// checkEnds finds a state from which no end is within reach.
func (m *model) checkEnds() error {
	// The states before i are before[start[i]:start[i+1]].
	start := make([]int32, len(m.states)+1)
	for _, p := range m.pairs {
		start[p.to]++
	}
	sum := int32(0)
	for i, n := range start {
		sum += n
		start[i] = sum
	}
	before := make([]int32, len(m.pairs))
	for _, p := range m.pairs {
		start[p.to]--
		before[start[p.to]] = p.from
	}
	reached := make([]bool, len(m.states))
	queue := m.ends
	for _, id := range queue {
		reached[id] = true
	}
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		for _, from := range before[start[id]:start[id+1]] {
			if !reached[from] {
				reached[from] = true
				queue = append(queue, from)
			}
		}
	}
	if i := slices.Index(reached, false); i >= 0 {
		return fmt.Errorf("%w for ever, after\n%s", errNotSettled, m.path(int32(i)))
	}
	return nil
}

// path returns the moves that lead to a state.
func (m *model) path(id int32, then ...move) string {
	var lines []string
	for _, mv := range then {
		lines = append(lines, m.describe(id, mv))
	}
	for ; m.first[id].from >= 0; id = m.first[id].from {
		lines = append([]string{m.describe(m.first[id].from, m.first[id].move)}, lines...)
	}
	return strings.Join(lines, "\n")
}

// describe returns a move as text, and for a round the decision.
func (m *model) describe(from int32, mv move) string {
	if mv.view < 0 {
		return mv.event.String()
	}
	c, v := m.states[from], m.views[mv.view]
	return fmt.Sprintf("a round with the view %+v: %v", v, described{m.plan(c.observe(v))})
}

// smallShapes are the kinds of cluster whose states are all visited.
var smallShapes = []shape{
	{servers: 1, managers: 1, nodes: 1, fleet: true, slow: true},
	{servers: 2},
	{servers: 1, managers: 1, nodes: 1, external: true},
	{servers: 1, managers: 1, nodes: 1, pauses: true},
	{servers: 2, managers: 1, fleet: true, external: true},
	{servers: 2, external: true, converts: true},
	{servers: 2, managers: 1, nodes: 1, fleet: true},
	{servers: 2, open: true, bare: true},
	{servers: 1, managers: 1, restores: true},
	{servers: 2, managers: 1, restores: true, bare: true},
	{servers: 1, managers: 1, disks: true},
	{servers: 2, disks: true, bare: true},
	{servers: 2, external: true, disks: true, bare: true},
	{servers: 2, managers: 1, adopted: true},
	{servers: 2, external: true, open: true, bare: true},
	{servers: 1, managers: 1, second: true},
	{servers: 2, second: true},
	{servers: 1, external: true, fleet: true, second: true},
	{servers: 1, managers: 1, external: true, awaits: true},
	{servers: 2, external: true, bare: true, awaits: true},
	{servers: 1, managers: 1, foreign: true},
	{servers: 2, bare: true, foreign: true},
	{servers: 1, managers: 1, external: true, converts: true, foreign: true},
	{servers: 2, external: true, bare: true, foreign: true},
}

// TestAllStates checks every state of small clusters.
func TestAllStates(t *testing.T) {
	for _, s := range smallShapes {
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
