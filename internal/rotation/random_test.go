package rotation

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// planner is plan, or a broken one.
type planner func(Observed) Decision

// plan is Plan at the time of all tests.
func plan(o Observed) Decision { return Plan(o, now) }

// trial is a cluster, the planner that rotates its key, and what happened so far.
type trial struct {
	cluster
	plan planner
	log  []fmt.Stringer
}

// act is one round of the controller, in which events may happen between what it saw and what it does, and in
// which it may die before it does anything.
func (t *trial) act(v view, meanwhile []event, dies bool) (Decision, error) {
	o := t.observe(v)
	d := t.plan(o)
	t.log = append(t.log, described{d})
	if err := t.checkDecision(o, d); err != nil {
		return d, err
	}
	for _, e := range meanwhile {
		if err := t.happen(e); err != nil {
			return d, err
		}
	}
	if dies {
		return d, t.happen(event{kind: controllerDied})
	}
	// where nothing is restored it would only make more states that are alike
	if d.Done && (t.shape.restores || t.shape.disks) {
		t.completed = t.wanted
	}
	was := t.cluster
	t.execute(d)
	if err := checkStep(&was, &t.cluster, d); err != nil {
		return d, err
	}
	return d, t.checkState()
}

func (t *trial) happen(e event) error {
	t.log = append(t.log, e)
	was := t.cluster
	if e.kind == secondPlans {
		t.old = oldPlanOf(t.plan(t.observe(fullView)).Action)
	}
	t.cluster.happen(e)
	if e.kind == secondActs {
		was.stored |= t.stored // a key that was retired may be stored again: the planner deletes it
		if err := checkStep(&was, &t.cluster, Decision{}); err != nil {
			return fmt.Errorf("a second controller: %w", err)
		}
	}
	return t.checkState()
}

// story is the end of what happened, for a test that failed.
func (t *trial) story() string {
	var b strings.Builder
	for _, line := range t.log[max(0, len(t.log)-60):] {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}

// chaos is a trial in random order: some hundred rounds in which anything may happen, then peace, in which the
// last wanted version must be reached, and then one more.
type chaos struct {
	trial
	rng *rand.Rand
	// faults is how many of a hundred events break something.
	faults int
}

const (
	chaoticRounds  = 300
	peacefulRounds = 300
	lastWanted     = 3
)

func newChaos(seed uint64, s shape, plan planner) *chaos {
	return &chaos{
		trial:  trial{cluster: newCluster(s), plan: plan},
		rng:    rand.New(rand.NewPCG(seed, 2)),
		faults: []int{0, 2, 10, 30}[seed%4],
	}
}

func (c *chaos) run() error {
	for range chaoticRounds {
		if err := c.round(); err != nil {
			return err
		}
	}
	for {
		if err := c.settle(); err != nil {
			return err
		}
		if c.wanted >= lastWanted {
			return nil
		}
		if err := c.happen(event{versionRaised, int8(c.wanted) + 1, 0}); err != nil {
			return err
		}
	}
}

// round lets the planner act, or something happen, or both at once.
func (c *chaos) round() error {
	if e, ok := c.pick(); ok && c.rng.IntN(3) > 0 {
		return c.happen(e)
	}
	var meanwhile []event
	// Nothing fences a plan against a disk that is restored just before it is carried out.
	if e, ok := c.pick(); ok && c.rng.IntN(4) == 0 && e.kind != diskRestored {
		meanwhile = append(meanwhile, e)
	}
	_, err := c.act(c.view(), meanwhile, c.rng.IntN(100) < c.faults)
	return err
}

// pick chooses an event of a random sort.
func (c *chaos) pick() (event, bool) {
	first, last := serverStopped, lastProgress
	switch n := c.rng.IntN(100); {
	case n < c.faults:
		first, last = lastUse+1, lastKind
	case n < c.faults+30:
		first, last = lastProgress+1, lastUse
	}
	var all []event
	for e := range c.events {
		rare := e.kind == versionRaised && e.at <= lastWanted || e.kind == foreignReleased
		common := e.kind != versionRaised && e.kind != foreignReleased
		if e.kind >= first && e.kind <= last && (common || rare && c.rng.IntN(20) == 0) {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return event{}, false
	}
	return all[c.rng.IntN(len(all))], true
}

// view loses proofs as often as things break.
func (c *chaos) view() view {
	v := fullView
	for i := range int(c.shape.servers) {
		if c.rng.IntN(100) < c.faults {
			v = v.without(i)
		}
		if c.rng.IntN(100) < c.faults {
			v.unsigned |= 1 << i
		}
	}
	v.fleetKnown = c.rng.IntN(100) >= c.faults
	v.blind = c.rng.IntN(100) < c.faults
	v.unreported = c.shape.awaits && c.rng.IntN(100) < c.faults
	if c.rng.IntN(100) < c.faults {
		v.lacks = "the load balancer to be ready"
	}
	return v
}

// settle breaks nothing any more. Everything that can make progress does so once a round, in random order.
func (c *chaos) settle() error {
	c.pdb, c.released = false, c.shape.foreign
	for range peacefulRounds {
		d, err := c.act(fullView, nil, false)
		if err != nil || d.Settled {
			return err
		}
		events := c.progress()
		c.rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		for _, e := range events {
			if !c.can(e) {
				continue
			}
			if err := c.happen(e); err != nil {
				return err
			}
		}
	}
	return errNotSettled
}

// can reports whether an event can still happen.
func (c *cluster) can(e event) bool {
	for f := range c.events {
		if f == e {
			return true
		}
	}
	return false
}

var shapes = []shape{
	{servers: 1, managers: 1, nodes: 0},
	{servers: 1, managers: 1, nodes: 2, fleet: true},
	{servers: 3, managers: 2, nodes: 2, pauses: true},
	{servers: 3, managers: 2, nodes: 1, fleet: true, slow: true},
	{servers: 3, managers: 2, nodes: 2, external: true, pauses: true},
	{servers: 3, managers: 2, nodes: 1, fleet: true, external: true, converts: true},
	{servers: 3, managers: 2, nodes: 1, fleet: true, open: true},
	{servers: 3, managers: 2, nodes: 1, external: true, converts: true, open: true, second: true},
	{servers: 3, managers: 2, nodes: 2, fleet: true, second: true},
	{servers: 3, managers: 2, nodes: 1, fleet: true, restores: true, disks: true},
	{servers: 3, managers: 2, nodes: 1, fleet: true, adopted: true, open: true},
	{servers: 3, managers: 2, nodes: 1, external: true, awaits: true, open: true},
	{servers: 3, managers: 2, nodes: 1, open: true, foreign: true},
}

// TestRandomOrder rotates clusters while things happen in random orders, and holds every state to the laws.
func TestRandomOrder(t *testing.T) {
	const seeds = 200
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				c := newChaos(seed, s, plan)
				if err := c.run(); err != nil {
					t.Fatalf("seed %d: %v, after\n%s", seed, err, c.story())
				}
			}
		})
	}
}

func (s shape) String() string {
	text := fmt.Sprintf("%d API servers, %d nodes", s.servers, s.nodes)
	if s.fleet {
		text += ", fleet"
	}
	if s.slow {
		text += " that is slow"
	}
	if s.external {
		text += ", signers"
	}
	if s.converts {
		text += ", other source"
	}
	if s.open {
		text += ", machines come and go"
	}
	if s.restores {
		text += ", machines are restored"
	}
	if s.disks {
		text += ", disks are restored"
	}
	if s.adopted {
		text += ", adopted"
	}
	if s.second {
		text += ", second controller"
	}
	if s.awaits {
		text += ", tokens awaited"
	}
	if s.foreign {
		text += ", foreign keys"
	}
	if s.pauses {
		text += ", watches pause"
	}
	return text
}

// TestPropertiesCatch shows that the laws can fail: planners that each break one rule are all found out.
func TestPropertiesCatch(t *testing.T) {
	for _, broken := range brokenPlanners {
		t.Run(broken.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(600) {
				s := cmp.Or(broken.in, shapes[seed/4%uint64(len(shapes))])
				c := newChaos(seed, s, broken.plan)
				err := c.run()
				if err == nil {
					continue
				}
				if errors.Is(err, errNotSettled) != broken.stuck {
					t.Fatalf("seed %d was caught for another reason: %v, after\n%s", seed, err, c.story())
				}
				if !strings.Contains(err.Error(), broken.law) {
					t.Fatalf("seed %d was caught for another reason: %v, after\n%s", seed, err, c.story())
				}
				t.Logf("seed %d: %v", seed, err)
				return
			}
			t.Error("nothing caught it")
		})
	}
}
