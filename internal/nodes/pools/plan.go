// Package pools makes, drains and removes the machines of node pools.
//
// Start with Plan: a pure function from the state of machines and Node objects (View) to chains of actions. An Executor
// creates the views (Observe), carries out a plan (Do), and describes what it waits for (Reasons). First a new machine
// is made. Then its predecessor is cordoned and drained with kubectl's library, so PodDisruptionBudgets are honored.
// Then its Node object is deleted, and last the machine.
package pools

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// View is the state of one machine, of its Node object, or of both.
type View struct {
	Name, Pool string
	KeyVersion int

	// Machine means that the machine exists, and Running that it is up.
	Machine, Running bool
	// Lost means that the machine runs, has no Node object, and has had enough time to get one.
	Lost bool

	// Registered means that the Node object exists. The fields below are about that object.
	Registered bool
	// Ready means that pods can run there now. It is false if the machine does not run, even if the Node object does
	// not show that yet.
	Ready bool
	// Leaving means that an earlier plan chose it for removal. It is never reset, so that a new plan does not choose
	// another one and leave this one half drained.
	Leaving  bool
	Cordoned bool
	// Labelled means that the Node object has the labels of its pool and key version.
	Labelled bool
	// Pods is how many pods must still leave it. It is known only for a node that is leaving and cordoned.
	Pods int
}

// Step is a kind of action.
type Step string

// The steps.
const (
	Create     Step = "create"     // make a machine of a pool; the executor names it
	Start      Step = "start"      // start a machine that does not run
	Label      Step = "label"      // put the labels of pool and key version on the Node object
	Cordon     Step = "cordon"     // mark the Node object as leaving and keep new pods away
	Evict      Step = "evict"      // ask every pod that is left to go, once
	DeleteNode Step = "deleteNode" // delete the Node object
	Remove     Step = "remove"     // remove the machine and its disk
)

// Action is one thing to do now.
type Action struct {
	Step Step
	// Pool names the pool of the machine, which may have been removed from the spec.
	Pool string
	// Node names the machine and Node object; empty for Create.
	Node string
}

// String returns a line of a golden file.
func (a Action) String() string {
	if a.Step == Create {
		return fmt.Sprintf("%s one of %s", a.Step, a.Pool)
	}
	return fmt.Sprintf("%s %s", a.Step, a.Node)
}

// Chain is a list of actions, each of which requires that the previous one succeeded. Chains are independent.
type Chain []Action

// Going returns the nodes for which a plan does more than keep them.
func Going(plan []Chain) map[string]bool {
	going := map[string]bool{}
	for _, c := range plan {
		for _, a := range c {
			if a.Step != Create && a.Step != Start && a.Step != Label {
				going[a.Node] = true
			}
		}
	}
	return going
}

// Converged reports whether each pool has exactly its replicas, all of them as desired, and nothing else is left.
func Converged(pools []v1alpha1.NodePool, views []View) bool {
	got := map[string]int{}
	for _, v := range views {
		if !v.Machine || !v.Ready || v.Leaving || !v.Labelled {
			return false
		}
		got[v.Pool]++
	}
	for _, p := range pools {
		if got[p.Name] != int(p.Replicas) {
			return false
		}
		delete(got, p.Name)
	}
	return len(got) == 0
}

// Plan returns what to do now so that every pool gets closer to its replicas, all of key version oldest or later. If
// nodes stay in a rotation, oldest is 0.
//
// It guarantees, as long as nothing else decides, that a create never makes the machines of a pool more than replicas
// plus maxSurge, that a ready node starts to leave only while more ready nodes than replicas stay, and that a Node
// object is deleted before its machine. A crash after any action loses nothing, since everything that Plan relies on is
// observed.
func Plan(pools []v1alpha1.NodePool, views []View, oldest int) []Chain {
	byPool := map[string][]View{}
	var chains []Chain
	for _, v := range slices.SortedFunc(slices.Values(views), byName) {
		if !v.Machine {
			chains = append(chains, leave(v))
			continue
		}
		byPool[v.Pool] = append(byPool[v.Pool], v)
	}
	for _, p := range pools {
		chains = append(chains, planPool(p, byPool[p.Name], oldest)...)
		delete(byPool, p.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(byPool)) {
		chains = append(chains, planPool(v1alpha1.NodePool{Name: name}, byPool[name], oldest)...)
	}
	return chains
}

func byName(a, b View) int { return cmp.Compare(a.Name, b.Name) }

// planPool plans one pool, all of whose views have a machine. A pool that was removed has no replicas.
func planPool(pool v1alpha1.NodePool, views []View, oldest int) []Chain {
	staying, going := divide(pool, views, oldest)
	var chains []Chain
	current := 0
	for _, v := range staying {
		current += count(v.KeyVersion >= oldest)
		chains = append(chains, keep(v)...)
	}
	room := int(pool.Replicas+pool.MaxSurge) - len(views)
	for range min(int(pool.Replicas)-current, room) {
		chains = append(chains, Chain{{Step: Create, Pool: pool.Name}})
	}
	for _, v := range going {
		chains = append(chains, leave(v))
	}
	return chains
}

// divide returns which machines of a pool stay for now and which go now: those that are already leaving, and as many of
// those that must go as the pool can spare.
func divide(pool v1alpha1.NodePool, views []View, oldest int) (staying, going []View) {
	ready, unreadyGoing := 0, 0
	for _, v := range views {
		if v.Leaving {
			going = append(going, v)
			unreadyGoing += count(drainsUnready(v))
			continue
		}
		staying = append(staying, v)
		ready += count(v.Ready)
	}
	for _, v := range unwanted(pool, staying, oldest) {
		switch {
		case v.Ready && ready <= int(pool.Replicas):
			continue // it is still needed
		case drainsUnready(v) && unreadyGoing >= max(1, int(pool.MaxSurge)):
			continue // if many are unready at once, the cause may be elsewhere and temporary
		}
		ready -= count(v.Ready)
		unreadyGoing += count(drainsUnready(v))
		going = append(going, v)
		staying = slices.DeleteFunc(staying, func(s View) bool { return s.Name == v.Name })
	}
	return staying, going
}

// drainsUnready reports whether the pods of a node that is not ready would be evicted if it left.
func drainsUnready(v View) bool { return v.Registered && v.Running && !v.Ready }

// unwanted returns the machines that must go in the end, the least useful first: the lost ones, those of an older key
// version, and the surplus of the rest.
func unwanted(pool v1alpha1.NodePool, staying []View, oldest int) []View {
	var out, rest []View
	for _, v := range staying {
		if v.Lost || v.KeyVersion < oldest {
			out = append(out, v)
		} else {
			rest = append(rest, v)
		}
	}
	slices.SortStableFunc(rest, byUse)
	surplus := max(0, len(rest)-int(pool.Replicas))
	out = append(out, rest[:surplus]...)
	slices.SortStableFunc(out, byUse)
	return out
}

// byUse orders machines by usefulness, least first.
func byUse(a, b View) int {
	return cmp.Or(
		cmp.Compare(count(a.Ready), count(b.Ready)),
		cmp.Compare(count(a.Running), count(b.Running)),
		cmp.Compare(count(a.Registered), count(b.Registered)),
		cmp.Compare(count(!a.Cordoned), count(!b.Cordoned)),
		cmp.Compare(a.KeyVersion, b.KeyVersion),
		cmp.Compare(a.Name, b.Name),
	)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// keep returns what a machine that stays needs now.
func keep(v View) []Chain {
	var chains []Chain
	if !v.Running {
		chains = append(chains, Chain{{Step: Start, Pool: v.Pool, Node: v.Name}})
	}
	if v.Registered && !v.Labelled {
		chains = append(chains, Chain{{Step: Label, Pool: v.Pool, Node: v.Name}})
	}
	return chains
}

// leave returns what a machine that goes needs now. The pods of a machine that does not run are not evicted: no kubelet
// would end them, and kube-controller-manager deletes them once the Node object is gone.
func leave(v View) Chain {
	do := func(s Step) Action { return Action{Step: s, Pool: v.Pool, Node: v.Name} }
	switch {
	case v.Registered && v.Running && (!v.Leaving || !v.Cordoned):
		// After a crash after cordon, it is marked as leaving, and the next plan continues with evict.
		return Chain{do(Cordon), do(Evict)}
	case v.Registered && v.Running && v.Pods > 0:
		return Chain{do(Evict)}
	case v.Registered && v.Machine:
		// After a crash after deleteNode, the machine has no Node object. Such a machine is the least useful, so it
		// goes next.
		return Chain{do(DeleteNode), do(Remove)}
	case v.Registered:
		return Chain{do(DeleteNode)}
	default:
		return Chain{do(Remove)}
	}
}
