// Package tokens finds out which tokens pods hold on nodes that stay, and replaces them.
//
// Start with Plan: a pure function from the state of machines that stay (View) to chains of actions. judge, also pure,
// compares the token files of a machine's pods with the new key. An Executor creates the views (Observe), carries out a
// plan (Do), and describes what it waits for (Reasons).
//
// A machine counts as one of the new key version once every token file of every pod on it, read as the pod sees it, has
// a token of the new key, and the applications have had time to read it. If pods are evicted instead, it counts once no
// pod on it is older than the new key, as package evict determines.
package tokens

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// minWait is the minimum time to wait for a node whose kubelet is not restarted: a kubelet may take that long between
// fetching a token for a starting pod and writing it to the volume (podAttachAndMountTimeout,
// pkg/kubelet/volumemanager).
const minWait = 2*time.Minute + 3*time.Second

// Policy is how machines that stay get to a key version.
type Policy struct {
	// How is InPlace, Wait or Evict; with any other, no machine stays.
	How        v1alpha1.NodeRefresh
	KeyVersion int
	// Reload is how long an application may keep using a token that is no longer in its file.
	Reload time.Duration
}

// View is the state of one machine that stays.
type View struct {
	nodes.Machine
	// Registered means that its Node object exists, and Ready that pods can run there.
	Registered, Ready bool
	// Going means that it will be removed after all: nothing more is done to it.
	Going bool
	// Heard means that the kubelet that was started for the Refresh has reported, and Held describes its pods' tokens.
	// Both are known only while the machine is refreshing.
	Heard bool
	Held  Held
	// Evicted means that no pod on it is older than the new key.
	Evicted bool
}

// Step is a kind of action.
type Step string

// The steps.
const (
	Begin          Step = "begin"          // remember that its tokens are to be replaced, from now on
	RestartKubelet Step = "restartKubelet" // end its kubelet if that is from before the begin
	Prove          Step = "prove"          // remember when all of its token files were first seen to be new
	Refreshed      Step = "refreshed"      // put the new key version on the Node object and the machine
)

// Action is one thing to do now.
type Action struct {
	Step Step
	// Node names the machine and Node object.
	Node string
}

// String returns a line of a golden file.
func (a Action) String() string { return fmt.Sprintf("%s %s", a.Step, a.Node) }

// Chain is a list of actions, each of which requires that the previous one succeeded. Chains are independent.
type Chain []Action

// Plan returns what to do now so that no pod on machines that stay keeps a token of an older key version.
//
// It guarantees that a kubelet is restarted only after all others that were restarted are back and have replaced every
// token, and that a machine counts as one of the new key version only after each of its pods has had new tokens for as
// long as applications need to notice. A crash after any action loses nothing: everything that Plan relies on is stored
// with the machine, or observed.
func Plan(views []View, p Policy, now time.Time) []Chain {
	if !p.How.KeepsNodes() {
		return nil
	}
	var chains []Chain
	var next []View
	busy := false
	for _, v := range slices.SortedFunc(slices.Values(views), byName) {
		switch {
		case v.KeyVersion >= p.KeyVersion:
		case p.How == v1alpha1.NodeRefreshEvict:
			if v.Evicted && !v.Going {
				chains = append(chains, Chain{{Refreshed, v.Name}})
			}
		case v.Refresh.KeyVersion != p.KeyVersion:
			next = append(next, v)
		default:
			busy = busy || !v.renewed(p, now)
			if c := goOn(v, p, now); len(c) > 0 && !v.Going {
				chains = append(chains, c)
			}
		}
	}
	return append(chains, begin(next, p, busy)...)
}

func byName(a, b View) int { return cmp.Compare(a.Name, b.Name) }

// begin returns the refreshes that begin now; busy means that some kubelet has not finished its own yet.
func begin(next []View, p Policy, busy bool) []Chain {
	var chains []Chain
	for _, v := range next {
		switch {
		case !v.Running || !v.Registered || v.Going:
		case p.How == v1alpha1.NodeRefreshWait:
			chains = append(chains, Chain{{Begin, v.Name}})
		case v.Ready && !busy:
			// After a crash in between, the refresh is stored, and the next plan continues with the restart.
			chains = append(chains, Chain{{Begin, v.Name}, {RestartKubelet, v.Name}})
			busy = true
		}
	}
	return chains
}

// goOn returns what a machine needs now whose refresh has begun.
func goOn(v View, p Policy, now time.Time) Chain {
	switch {
	case !v.Running:
		return nil
	case p.How == v1alpha1.NodeRefreshInPlace && v.Refresh.Kubelet.IsZero():
		return Chain{{RestartKubelet, v.Name}}
	case !v.renewed(p, now):
		return nil
	case v.unproven(now):
		return Chain{{Prove, v.Name}}
	case len(v.Held.Stuck) == 0 && !now.Before(v.reloaded(p, now)):
		return Chain{{Refreshed, v.Name}}
	default:
		return nil
	}
}

// renewed reports whether every token file on a refreshing node has, and will keep, a token of the new key.
func (v View) renewed(p Policy, now time.Time) bool {
	switch {
	case !v.Running || !v.Held.Known || len(v.Held.Old) > 0:
		return false
	case p.How == v1alpha1.NodeRefreshInPlace:
		return v.Ready && v.Heard && !v.Refresh.Kubelet.IsZero()
	default:
		return !now.Before(v.Refresh.Since.Add(minWait))
	}
}

// unproven reports whether it must be stored that every file has a new token, or stored again because that time is in
// the future, which means that a clock was wrong.
func (v View) unproven(now time.Time) bool {
	if v.Refresh.Proven.IsZero() {
		return v.Held.Renewed // if no file had an older token, there is nothing to store
	}
	return v.Refresh.Proven.After(now)
}

// reloaded returns when the applications on a renewed node have read their new tokens; zero if none had an old one. It
// counts from when every file was first seen with a new one, so a later renewal changes nothing. The times of the files
// do not count: they are of another clock, which may have been set.
func (v View) reloaded(p Policy, now time.Time) time.Time {
	switch {
	case !v.Refresh.Proven.IsZero():
		return v.Refresh.Proven.Add(p.Reload)
	case v.Held.Renewed:
		return now.Add(p.Reload)
	default:
		return time.Time{}
	}
}
