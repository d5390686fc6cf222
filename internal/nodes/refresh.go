package nodes

import (
	"cmp"
	"slices"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// minWait is how long, at least, a node is waited for whose kubelet stays as it is: kubelet may take as long from
// fetching a token for a pod that starts to having it in place (podAttachAndMountTimeout, pkg/kubelet/volumemanager).
const minWait = 2*time.Minute + 3*time.Second

// policy is what the spec says of nodes that are of an older key version.
type policy struct {
	refresh    v1alpha1.NodeRefresh
	keyVersion int
	// reload is how long an application may use a token that is no longer in its file.
	reload time.Duration
}

// policyOf returns the policy by which the nodes of a cluster come to be of a key version.
func policyOf(uc *v1alpha1.UserCluster, keyVersion int) policy {
	key := uc.Spec.KSASigningKey
	return policy{
		refresh:    key.NodeRefresh,
		keyVersion: keyVersion,
		reload:     time.Duration(key.TokenReloadSeconds) * time.Second,
	}
}

// oldest is the oldest key version that a machine of a pool may be from.
func (p policy) oldest() int {
	if p.refresh.KeepsNodes() {
		return 0
	}
	return p.keyVersion
}

// decide says what to do now: for the pools, and, if their nodes stay, for the tokens on them.
func decide(pools []v1alpha1.NodePool, views []view, p policy, now time.Time) []chain {
	chains := plan(pools, views, p.oldest())
	if !p.refresh.KeepsNodes() {
		return chains
	}
	going := map[string]bool{}
	for _, c := range chains {
		for _, a := range c {
			going[a.Node] = going[a.Node] || a.Step != stepStart && a.Step != stepLabel
		}
	}
	return append(chains, refresh(views, going, p, now)...)
}

// refresh says what to do now so that no pod is left with a token of an older key version, on nodes that stay. Those that are
// going are left alone.
//
// It guarantees that a kubelet is ended only while all others that were are back and have replaced every token, and that a
// machine is called of the new key version only once each of its pods has had new tokens for the time that applications
// need to notice. A crash after any action loses nothing: all that it goes by is remembered with the machine, or observed.
func refresh(views []view, going map[string]bool, p policy, now time.Time) []chain {
	var chains []chain
	var next []view
	busy := false
	for _, v := range slices.SortedFunc(slices.Values(views), func(a, b view) int { return cmp.Compare(a.Name, b.Name) }) {
		switch {
		case !v.Machine || v.Leaving || v.KeyVersion >= p.keyVersion:
		case v.Refresh.KeyVersion != p.keyVersion:
			next = append(next, v)
		default:
			busy = busy || !v.renewed(p, now)
			if c := goOn(v, p, now); len(c) > 0 && !going[v.Name] {
				chains = append(chains, c)
			}
		}
	}
	for _, v := range next {
		do := func(s step) action { return action{Step: s, Pool: v.Pool, Node: v.Name} }
		switch {
		case !v.Running || !v.Registered || going[v.Name]:
		case p.refresh == v1alpha1.NodeRefreshWait:
			chains = append(chains, chain{do(stepBegin)})
		case v.Ready && !busy:
			// Crash in between: it is remembered, and the next plan goes on with the restart.
			chains = append(chains, chain{do(stepBegin), do(stepRestartKubelet)})
			busy = true
		}
	}
	return chains
}

// goOn is what a machine needs now on which a refresh was begun.
func goOn(v view, p policy, now time.Time) chain {
	do := func(s step) chain { return chain{{Step: s, Pool: v.Pool, Node: v.Name}} }
	switch {
	case !v.Running:
		return nil
	case p.refresh == v1alpha1.NodeRefreshInPlace && v.Refresh.Kubelet.IsZero():
		return do(stepRestartKubelet)
	case !v.renewed(p, now):
		return nil
	case v.unproven(now):
		return do(stepProve)
	case len(v.Tokens.held) == 0 && !now.Before(v.reloaded(p)):
		return do(stepRefreshed)
	default:
		return nil
	}
}

// renewed says that every token file on a node whose refresh was begun has a token of the new key, and always will.
func (v view) renewed(p policy, now time.Time) bool {
	switch {
	case !v.Running || !v.Tokens.known || len(v.Tokens.old) > 0:
		return false
	case p.refresh == v1alpha1.NodeRefreshInPlace:
		return v.Ready && v.Heard && !v.Refresh.Kubelet.IsZero()
	default:
		return !now.Before(v.Refresh.Since.Add(minWait))
	}
}

// unproven says that it is still to be remembered when the last file was replaced, or again: if that is in the
// future, a clock was wrong.
func (v view) unproven(now time.Time) bool {
	if v.Refresh.Proven.IsZero() {
		return !v.Tokens.youngest.IsZero() // without a file that had an older token there is nothing to remember
	}
	return v.Refresh.Proven.After(now)
}

// reloaded is when the applications on a node that is renewed are sure to have read their new tokens; zero when none had an
// old one. It counts from when every file was first seen to have a new one: that one is renewed once more changes nothing.
func (v view) reloaded(p policy) time.Time {
	proven := v.Refresh.Proven
	if proven.IsZero() {
		proven = v.Tokens.youngest
	}
	if proven.IsZero() {
		return time.Time{}
	}
	return proven.Add(p.reload)
}
