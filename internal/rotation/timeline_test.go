package rotation

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden timelines")

// described is a decision that a timeline shows as one line.
type described struct{ Decision }

func (d described) String() string {
	step := cmp.Or(string(d.Step), "-")
	switch {
	case d.Settled:
		step = "settled"
	case d.Done:
		step = "done"
	case d.Blind:
		return fmt.Sprintf("%-8s  %-12s %s | waits for %s", "?", "?", describe(d.Action), d.Waiting)
	}
	versions := fmt.Sprintf("%d, %d, %v", d.Versions.Token, d.Versions.Private, d.Versions.Public)
	line := fmt.Sprintf("%-8s  %-12s %s", step, versions, describe(d.Action))
	switch {
	case d.Blocked:
		line += " | BLOCKED by " + d.Waiting
	case d.Waiting != "":
		line += " | waits for " + d.Waiting
	}
	return line
}

// describe returns an action as text.
func describe(a Action) string {
	switch a.Kind {
	case ConvergeControlPlane:
		next := cmp.Or(a.Target.Next, "none")
		switch {
		case a.Target.Live:
			next = "live"
		case a.Target.Bootstrap:
			next = "bootstrap"
		}
		return fmt.Sprintf("%s %v, sign %d, managers %d, next %s", a.Kind, a.Target.Keys.Verify, a.Target.Keys.Sign,
			a.Target.ControllerManagerSign, next)
	case PublishKeys:
		return fmt.Sprintf("%s %v", a.Kind, a.Publish)
	case Wait, WriteKubeconfig:
		return string(a.Kind)
	case AdoptKey:
		return fmt.Sprintf("%s %s as %d", a.Kind, a.KeyID, a.Version)
	default:
		return fmt.Sprintf("%s %d", a.Kind, a.Version)
	}
}

// timeline is one story of a cluster, in which everything that can make progress does so once a tick.
type timeline struct {
	trial
	out  strings.Builder
	tick int
	last string
	// incidents happen once each and in this order, after the first decision that they match.
	incidents []incident
	// quiet means that nothing is written yet: each story but that of the creation begins with a cluster that is settled.
	quiet bool
	// blind is for how many ticks more the API servers cannot be listed.
	blind int
}

// incident is what happens after the first decision that matches.
type incident struct {
	after  func(Decision) bool
	happen []event
	// blind is for how many ticks the API servers cannot be listed from then on.
	blind int
}

// tooLong is how many ticks no story takes.
const tooLong = 400

// run continues until the wanted version is settled and every incident has happened.
func (t *timeline) run() error {
	fmt.Fprintf(&t.out, "tick  step      token, private, [public]\n")
	for ; t.tick < tooLong; t.tick++ {
		progress := t.progress()
		v := fullView
		v.blind = t.blind > 0
		t.blind = max(0, t.blind-1)
		d, err := t.act(v, nil, false)
		t.write(d)
		if err != nil {
			return err
		}
		for _, e := range progress {
			if e.kind == tokensExpired || e.kind == watchesBack && !awaitsWatches(d) {
				continue // they take longer than all else: an incident lets tokens expire
			}
			if err := t.happen(e); err != nil {
				return err
			}
		}
		happened, err := t.incident(d)
		if err != nil || d.Settled && !happened {
			return err
		}
	}
	return errNotSettled
}

// write logs a decision that differs from the last.
func (t *timeline) write(d Decision) {
	if d.Settled {
		t.quiet = false
	}
	if line := (described{d}).String(); line != t.last && !t.quiet {
		fmt.Fprintf(&t.out, "%4d  %s\n", t.tick, line)
		t.last = line
	}
}

// incident lets the next incident happen if the decision matches it.
func (t *timeline) incident(d Decision) (bool, error) {
	if len(t.incidents) == 0 || !t.incidents[0].after(d) {
		return false, nil
	}
	for _, e := range t.incidents[0].happen {
		fmt.Fprintf(&t.out, "      %s\n", "! "+e.String())
		if err := t.happen(e); err != nil {
			return true, err
		}
	}
	if t.blind = t.incidents[0].blind; t.blind > 0 {
		fmt.Fprintf(&t.out, "      ! the API servers cannot be listed\n")
	}
	t.incidents = t.incidents[1:]
	return true, nil
}

var (
	one       = shape{servers: 1, managers: 1}
	oneNodes  = shape{servers: 1, managers: 1, nodes: 2, pauses: true}
	ha        = shape{servers: 3, managers: 2, nodes: 1}
	haNodes   = shape{servers: 3, managers: 2, nodes: 2, pauses: true}
	haFleet   = shape{servers: 3, managers: 2, nodes: 1, fleet: true, slow: true}
	external  = shape{servers: 1, managers: 1, external: true}
	haSigner  = shape{servers: 3, managers: 2, nodes: 1, fleet: true, external: true, converts: true, pauses: true}
	haFiles   = shape{servers: 3, managers: 2, converts: true}
	haOpen    = shape{servers: 3, managers: 2, nodes: 1, open: true}
	haForeign = shape{servers: 3, managers: 2, foreign: true}
	haDisks   = shape{servers: 3, managers: 2, disks: true}
	signers   = shape{servers: 2, managers: 1, external: true, disks: true}
	awaiting  = shape{servers: 2, managers: 1, external: true, awaits: true}
	adopted1  = shape{servers: 1, managers: 1, adopted: true}
	adopted3  = shape{servers: 3, managers: 2, nodes: 1, adopted: true, open: true}
)

type story struct {
	name      string
	shape     shape
	incidents []incident
}

func stories() []story {
	all := []story{
		{"create-1", one, nil},
		{"create-3-with-fleet", haFleet, nil},
		{"rotate-1", one, rotate()},
		{"rotate-3-with-nodes", haNodes, rotate()},
		{"rotate-3-with-fleet", haFleet, rotate()},
		{
			"fleet-loses-its-keys-in-switch", haFleet,
			rotate(incident{after: nextIs("cp-1"), happen: []event{{kind: fleetLost}}}),
		},
		{"fleet-loses-its-keys-in-refresh", haFleet, rotate(incident{after: replacing, happen: []event{{kind: fleetLost}}})},
		{"server-dies-while-the-switch-is-held", haFleet, rotate(
			incident{after: nextIs("cp-1"), happen: []event{{kind: fleetLost}}},
			incident{after: waitsFor("API server cp-1: starting"), happen: []event{{serverDied, 2, 0}}},
		)},
		{"rotate-twice", one, rotate(incident{after: settledAt(2), happen: wanted(3)})},
		{"wanted-again-while-it-runs", one, rotate(incident{after: in(StepSwitch), happen: wanted(3)})},
		{"disruption-budget", oneNodes, rotate(
			incident{after: in(StepRefresh), happen: []event{{kind: budgetSpent}}},
			incident{after: blocked, happen: []event{{kind: budgetReleased}}},
		)},
		{
			"bad-key-files", ha,
			rotate(incident{after: waitsFor("API server cp-1: down"), happen: []event{{serverMisloaded, 1, 0}}}),
		},
		{"controller-restarts-in-the-walk", one, rotate(
			incident{after: waitsFor("the legacy tokens: 1 of 2 pages are re-signed"), happen: []event{{kind: controllerDied}}},
		)},
		{"controller-restarts-while-the-only-server-is-down-in-retire", one, rotate(
			incident{after: dropping, happen: []event{{kind: controllerDied}, {kind: serverDied}}},
		)},
		{"rotate-1-with-signer", external, rotate()},
		{"rotate-3-with-signers-and-fleet", haSigner, rotate()},
		{
			"fleet-loses-its-keys-before-signers-switch", haSigner,
			rotate(incident{after: changing(StepSwitch), happen: []event{{kind: fleetLost}}}),
		},
		{
			"server-with-signer-dies-in-switch", haSigner,
			rotate(incident{after: changing(StepSwitch), happen: []event{{serverDied, 1, 0}}}),
		},
		{
			"server-with-signer-dies-in-retire", haSigner,
			rotate(incident{after: changing(StepRetire), happen: []event{{serverDied, 1, 0}}}),
		},
		{"give-signers", haFiles, []incident{{after: settledAt(1), happen: []event{{kind: sourceChanged}}}}},
		{"give-signers-and-rotate-meanwhile", haFiles, []incident{
			{after: settledAt(1), happen: []event{{kind: sourceChanged}}},
			{after: func(d Decision) bool { return d.Action.Target.Next == "cp-1" }, happen: wanted(2)},
		}},
		{"take-signers-away", haSigner, []incident{{after: settledAt(1), happen: []event{{kind: sourceChanged}}}}},
		{"managers-die-in-switch", ha, rotate(incident{after: in(StepSwitch), happen: managersDie})},
		{"managers-die-in-refresh", ha, rotate(incident{after: refreshing, happen: managersDie})},
		{"blind-in-publish", ha, rotate(incident{after: in(StepPublish), blind: 3})},
		{"blind-in-retire", ha, rotate(incident{after: dropping, blind: 3})},
		{"adopt-1-and-rotate", adopted1, rotate()},
		{"adopt-3-and-rotate", adopted3, rotate()},
		{"newcomer-in-switch", haOpen, rotate(
			incident{after: nextIs("cp-1"), happen: []event{{serverLeaves, 2, 0}, {serverGone, 2, 0}, {serverJoins, 2, 2}}},
		)},
		{"newcomer-while-another-is-out", haOpen, rotate(
			incident{after: nextIs("cp-0"), happen: []event{{serverLeaves, 2, 0}, {serverGone, 2, 0}}},
			incident{after: waitsFor("API server cp-0: down"), happen: []event{{serverJoins, 2, 2}}},
		)},
		{"server-leaves-in-switch", haOpen, rotate(
			incident{after: nextIs("cp-1"), happen: []event{{serverLeaves, 2, 0}}},
			incident{after: in(StepRetire), happen: []event{{serverGone, 2, 0}}},
		)},
		{
			"server-restored-after-retire", haOpen,
			rotate(incident{after: settledAt(2), happen: []event{{serverRestored, 1, 3}}}),
		},
		{"disks-restored-after-retire", haDisks, rotate(
			incident{after: settledAt(2), happen: []event{{diskRestored, 0, 1}, {diskRestored, 1, 1}, {diskRestored, 2, 1}}},
		)},
		{"disks-restored-in-switch", haDisks, rotate(
			incident{after: nextIs("cp-2"), happen: []event{{diskRestored, 0, 1}, {diskRestored, 1, 2}, {serverDied, 1, 0}}},
		)},
		{"signer-restored-after-retire", signers, rotate(
			incident{after: settledAt(2), happen: []event{{diskRestored, 0, 1}, {serverLoads, 0, 0}}},
		)},
		{"second-controller-wakes-up", shape{servers: 3, managers: 2, external: true, second: true}, rotate(
			incident{after: in(StepPublish), happen: []event{{kind: secondPlans}}},
			incident{after: settledAt(2), happen: []event{{kind: secondActs}}},
		)},
		{"tokens-expire-before-retire", awaiting, rotate(
			incident{after: in(StepGenerate), happen: []event{{tokenIssued, 0, 0}}},
			incident{after: waitsFor("tokens of key version 1 to expire"), happen: []event{{serverDied, 1, 0}}},
			incident{after: waitsFor("tokens of key version 1 to expire"), happen: []event{{kind: tokensExpired}}},
		)},
		{"limit-passes-before-tokens-expire", awaiting, rotate(
			incident{after: in(StepGenerate), happen: []event{{tokenIssued, 0, 0}}},
			incident{after: waitsFor("tokens of key version 1 to expire"), happen: []event{{kind: limitPassed}}},
		)},
		{"foreign-key-after-a-rotation", haForeign, rotate(
			incident{after: settledAt(2), happen: []event{{foreignAdded, 0, 0}, {foreignAdded, 2, 0}}},
			incident{after: blocked, happen: []event{{kind: foreignReleased}}},
		)},
		{"foreign-key-in-switch", haForeign, rotate(
			incident{after: nextIs("cp-2"), happen: []event{{foreignAdded, 0, 0}}},
			incident{after: blocked, happen: []event{{kind: foreignReleased}}},
			incident{after: settledAt(2), happen: []event{{foreignAdded, 1, 0}}},
		)},
		{"server-dies-while-legacy-tokens-are-re-signed", oneNodes, rotate(
			incident{after: waitsFor("the legacy tokens: 1 of 2 pages are re-signed"), happen: []event{{kind: serverDied}}},
		)},
		{"server-dies-while-nodes-are-replaced", ha, rotate(incident{after: replacing, happen: []event{{serverDied, 1, 0}}})},
	}
	for _, s := range []Step{StepGenerate, StepPublish, StepSwitch, StepRefresh, StepRetire} {
		name := strings.ToLower(string(s))
		all = append(all,
			story{"server-dies-in-" + name, ha, rotate(incident{after: in(s), happen: []event{{serverDied, 1, 0}}})},
			story{
				"controller-restarts-in-" + name, one, rotate(incident{after: in(s), happen: []event{{kind: controllerDied}}}),
			},
		)
	}
	return all
}

// rotate is a rotation from key version 1, once that is settled and a legacy token is signed with it.
func rotate(then ...incident) []incident {
	start := incident{after: settledAt(1), happen: append([]event{{kind: secretFilled}}, wanted(2)...)}
	return append([]incident{start}, then...)
}

func wanted(version int8) []event { return []event{{kind: versionRaised, at: version}} }

var managersDie = []event{{managerDied, 0, 0}, {managerDied, 1, 0}}

func in(s Step) func(Decision) bool { return func(d Decision) bool { return d.Step == s } }

func settledAt(version int) func(Decision) bool {
	return func(d Decision) bool { return d.Settled && d.Versions.Private == version }
}

func waitsFor(text string) func(Decision) bool {
	return func(d Decision) bool { return d.Step != "" && d.Waiting == text }
}

func nextIs(server string) func(Decision) bool {
	return func(d Decision) bool { return d.Step == StepSwitch && d.Action.Target.Next == server }
}

func blocked(d Decision) bool { return d.Blocked }

func awaitsWatches(d Decision) bool {
	return strings.HasPrefix(d.Waiting, "kubelets to watch Secrets again")
}

func changing(s Step) func(Decision) bool {
	return func(d Decision) bool { return d.Step == s && d.Action.Target.Live }
}

func dropping(d Decision) bool   { return d.Step == StepRetire && d.Action.Target.Next == "cp-0" }
func refreshing(d Decision) bool { return d.Action.Kind == RefreshTokens }
func replacing(d Decision) bool  { return d.Step == StepRefresh && d.Action.Kind == ConvergeNodes }

// TestTimelines compares the decisions of the planner with golden timelines.
func TestTimelines(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			run := timeline{
				trial: trial{cluster: newCluster(s.shape), plan: plan}, incidents: s.incidents,
				quiet: s.incidents != nil && !s.shape.adopted,
			}
			if err := run.run(); err != nil {
				t.Errorf("%v, after\n%s", err, run.story())
			}
			if n := len(run.incidents); n > 0 {
				t.Errorf("%d incidents did not happen", n)
			}
			golden(t, s.name, run.out.String())
		})
	}
}

// golden compares a text with its file, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; go test -update writes it. Now it is\n%s", path, got)
	}
}
