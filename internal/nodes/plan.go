package nodes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// view is what the planner knows of one machine, of its Node object, or of both.
type view struct {
	Name, Pool string
	KeyVersion int

	// Machine says that the machine exists, and Running that it is up.
	Machine, Running bool
	// Lost says that the machine runs, has no Node object, and has had all the time it needs to get one.
	Lost bool

	// Registered says that the Node object exists. The rest is about that object.
	Registered bool
	// Ready says that pods can run there now. It is false when the machine does not run, whatever the Node object says.
	Ready bool
	// Leaving says that an earlier plan chose it to go. It is never taken back, so that a new plan does not
	// choose another one and leave this one half drained.
	Leaving  bool
	Cordoned bool
	// Labelled says that the Node object carries the labels of its pool and key version.
	Labelled bool
	// Refresh is what is remembered of the latest replacement of its tokens. Heard says that the kubelet of that has
	// reported, and Tokens is what its pods have; both are only known while it is refreshing.
	Refresh Refresh
	Heard   bool
	Tokens  tokenSight
	// Pods is how many pods are still to leave it. It is only known of a node that is leaving and cordoned.
	Pods int
}

// refreshing says that its tokens are being replaced.
func (v view) refreshing() bool { return v.Refresh.KeyVersion > v.KeyVersion }

// step is a kind of action.
type step string

const (
	stepCreate     step = "create"     // make a machine of a pool; the executor names it
	stepStart      step = "start"      // start a machine that does not run
	stepLabel      step = "label"      // put the labels of pool and key version on the Node object
	stepCordon     step = "cordon"     // mark the Node object as leaving and keep new pods away
	stepEvict      step = "evict"      // ask every pod that is left to go, once
	stepDeleteNode step = "deleteNode" // delete the Node object
	stepRemove     step = "remove"     // remove the machine and its disk

	stepBegin          step = "begin"          // remember that its tokens are to be replaced, from now on
	stepRestartKubelet step = "restartKubelet" // end its kubelet if that is from before the begin
	stepProve          step = "prove"          // remember when the last of its token files was replaced
	stepRefreshed      step = "refreshed"      // put the new key version on the Node object and the machine
)

// action is one thing to do now.
type action struct {
	Step step
	// Pool names a pool of the spec, of which the machine is or is to be; a removed pool is named all the same.
	Pool string
	// Node names the machine and Node object; empty for stepCreate.
	Node string
}

// String is the line of a golden file.
func (a action) String() string {
	if a.Step == stepCreate {
		return fmt.Sprintf("%s one of %s", a.Step, a.Pool)
	}
	return fmt.Sprintf("%s %s", a.Step, a.Node)
}

// chain is a list of actions of which each needs the one before it to have succeeded. Chains do not need each other.
type chain []action

// plan says what to do now so that every pool comes nearer to its replicas, all of keyVersion or later. Where nodes stay in
// a rotation that is 0, and decide plans the rest.
//
// It guarantees, as long as it is what decides: machines of a pool never outnumber replicas plus maxSurge because
// of a create, a ready node starts to leave only while more ready nodes than replicas stay, and a Node object goes
// before its machine. A crash after any action loses nothing, since all that it goes by is observed.
func plan(pools []v1alpha1.NodePool, views []view, keyVersion int) []chain {
	byPool := map[string][]view{}
	var chains []chain
	for _, v := range slices.SortedFunc(slices.Values(views), func(a, b view) int { return cmp.Compare(a.Name, b.Name) }) {
		if !v.Machine {
			chains = append(chains, leave(v))
			continue
		}
		byPool[v.Pool] = append(byPool[v.Pool], v)
	}
	for _, p := range pools {
		chains = append(chains, planPool(p, byPool[p.Name], keyVersion)...)
		delete(byPool, p.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(byPool)) {
		chains = append(chains, planPool(v1alpha1.NodePool{Name: name}, byPool[name], keyVersion)...)
	}
	return chains
}

// planPool plans one pool, all of whose views have a machine. A pool that was removed has no replicas.
func planPool(pool v1alpha1.NodePool, views []view, keyVersion int) []chain {
	staying, going := divide(pool, views, keyVersion)
	var chains []chain
	current := 0
	for _, v := range staying {
		current += count(v.KeyVersion >= keyVersion)
		chains = append(chains, keep(v)...)
	}
	room := int(pool.Replicas+pool.MaxSurge) - len(views)
	for range min(int(pool.Replicas)-current, room) {
		chains = append(chains, chain{{Step: stepCreate, Pool: pool.Name}})
	}
	for _, v := range going {
		chains = append(chains, leave(v))
	}
	return chains
}

// divide says which machines of a pool stay for now and which go now: those that are leaving already,
// and as many of those that must go as the pool can spare.
func divide(pool v1alpha1.NodePool, views []view, keyVersion int) (staying, going []view) {
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
	for _, v := range unwanted(pool, staying, keyVersion) {
		switch {
		case v.Ready && ready <= int(pool.Replicas):
			continue // it is still needed
		case drainsUnready(v) && unreadyGoing >= max(1, int(pool.MaxSurge)):
			continue // when many are unready at once the fault may be elsewhere, and pass
		}
		ready -= count(v.Ready)
		unreadyGoing += count(drainsUnready(v))
		going = append(going, v)
		staying = slices.DeleteFunc(staying, func(s view) bool { return s.Name == v.Name })
	}
	return staying, going
}

// drainsUnready says whether the pods of a node that is not ready would be evicted if it left.
func drainsUnready(v view) bool { return v.Registered && v.Running && !v.Ready }

// unwanted returns the machines that must go in the end, those first that are missed least: the lost ones,
// those of an older key version, and of the rest as many as there are too many.
func unwanted(pool v1alpha1.NodePool, staying []view, keyVersion int) []view {
	var out, rest []view
	for _, v := range staying {
		if v.Lost || v.KeyVersion < keyVersion {
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

// byUse orders machines by how much they are missed, least first.
func byUse(a, b view) int {
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

// keep is what a machine that stays needs now.
func keep(v view) []chain {
	var chains []chain
	if !v.Running {
		chains = append(chains, chain{{Step: stepStart, Pool: v.Pool, Node: v.Name}})
	}
	if v.Registered && !v.Labelled {
		chains = append(chains, chain{{Step: stepLabel, Pool: v.Pool, Node: v.Name}})
	}
	return chains
}

// leave is what a machine that goes needs now. The pods of a machine that does not run are not
// evicted: no kubelet would end them, and kube-controller-manager deletes them once the Node object is gone.
func leave(v view) chain {
	do := func(s step) action { return action{Step: s, Pool: v.Pool, Node: v.Name} }
	switch {
	case v.Registered && v.Running && (!v.Leaving || !v.Cordoned):
		// Crash after cordon: it is marked as leaving, and the next plan goes on with evict.
		return chain{do(stepCordon), do(stepEvict)}
	case v.Registered && v.Running && v.Pods > 0:
		return chain{do(stepEvict)}
	case v.Registered && v.Machine:
		// Crash after deleteNode: a machine without a Node object is what every pool misses least, so it goes next.
		return chain{do(stepDeleteNode), do(stepRemove)}
	case v.Registered:
		return chain{do(stepDeleteNode)}
	default:
		return chain{do(stepRemove)}
	}
}
