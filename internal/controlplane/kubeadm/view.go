package kubeadm

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// view is a control plane as one look found it.
type view struct {
	found Found
	// keys are the stored key versions, and versions those and the retired ones, by kid.
	keys     []keystore.KeyPair
	versions map[string]int
	nodes    []*node
	agents   roster
	// idle means that nothing is left for the agents that are there, and unheard is whose agents have yet to tell that, in
	// words.
	idle    bool
	unheard string
	// outdated means that what kubeadm has uploaded may hold keys of before this step.
	outdated bool
	// leaders is what no component leads, joining which nodes may be joining, and abandoned which signer is to be removed,
	// in words.
	leaders, joining, abandoned string
}

// node is one control-plane node: what its API server shows, and what its agent reads.
type node struct {
	Server
	ready   bool
	waiting string
	// served is what it serves now, or served last.
	served  controlplane.Served
	running rotation.Keys
	// configured is what it starts with next; zero when nobody knows.
	configured rotation.Keys
	// pod is its agent, and report what that found; nil without one.
	pod    *pod
	report *agent.Found
	// mark and managerMark are the marks that the mirror pods of its API server and its kube-controller-manager show, or
	// showed last.
	mark, managerMark string
	// left is why its agent has yet to carry out its last order, and signer why its signer does not run, in words.
	left, signer string
	// manager is with which key version its kube-controller-manager was asked to sign, and managing with which it does.
	manager, managing int
}

// look observes the cluster and changes nothing.
func (c *Cluster) look(ctx context.Context) (*view, error) {
	if err := c.reach(ctx); err != nil {
		return nil, err
	}
	v := &view{versions: map[string]int{}}
	var err error
	if v.keys, err = c.store.List(ctx, c.key()); err != nil {
		return nil, err
	}
	for _, retired := range c.retired() {
		v.versions[retired.KeyID] = int(retired.Version)
	}
	for _, k := range v.keys {
		v.versions[k.KeyID] = k.Version
	}
	if v.found, err = c.plane.find(ctx); err != nil {
		return nil, &unseenError{err}
	}
	if !c.uc.Spec.Infrastructure.RollsOut() { // then no agent changes anything
		v.found.Problems = append(v.found.Problems, v.found.unwritable(c.uc.Spec.Infrastructure)...)
	}
	if v.agents, err = c.agents.list(ctx); err != nil {
		return nil, &unseenError{err}
	}
	var wg sync.WaitGroup
	for _, s := range v.found.Servers {
		n := &node{Server: s, signer: v.agents.signers[s.Node]}
		v.nodes = append(v.nodes, n)
		if p, ok := v.agents.ready[s.Node]; ok {
			n.pod = &p
			wg.Go(func() { c.askAgent(ctx, v, n) })
		}
		wg.Go(func() { c.askServer(ctx, n) })
	}
	wg.Wait()
	for _, n := range v.nodes {
		c.conclude(v, n)
		wg.Go(func() { c.readLog(ctx, n) })
	}
	wg.Wait()
	c.forgetAllBut(v.nodes)
	v.idle, v.unheard = c.idle(v)
	v.joining, v.abandoned = c.joining(v), c.abandoned(v)
	if v.leaders, err = c.leading(ctx, v); err != nil {
		return v, err
	}
	if v.outdated, err = c.outdated(ctx, v); err != nil {
		return v, &unseenError{err}
	}
	return v, nil
}

func (c *Cluster) retired() []v1alpha1.RetiredKey {
	if s := c.uc.Status.Infrastructure.Adopted(); s != nil {
		return s.Retired
	}
	return nil
}

func (c *Cluster) askServer(ctx context.Context, n *node) {
	if n.Server.Waiting != "" {
		n.waiting = n.Server.Waiting
		return
	}
	served, err := c.plane.served(ctx, n.Server)
	if err != nil {
		n.waiting = hint.Line(err)
		return
	}
	n.served, n.ready = served, true
}

// askAgent asks what is on the node. An agent that does not answer is as good as none.
func (c *Cluster) askAgent(ctx context.Context, v *view, n *node) {
	r, err := c.agents.apply(ctx, *n.pod, c.order(v, n, agent.Observe))
	if err == nil && r.Found != nil {
		n.report = r.Found
	}
}

// conclude works out which key versions a node has, and remembers it.
func (c *Cluster) conclude(v *view, n *node) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	was := c.memory.nodes[n.Node]
	// Draining a node may take as long as disruption budgets forbid it. Until the end pods reach its API server, which
	// must accept their tokens, and which is one that is out while a change starts it again.
	n.Leaving = n.Leaving && !n.ready && !v.reachable(n) && !n.pending()
	if n.ready {
		n.running = v.runs(n.served)
		was.served = n.served.Keys
	}
	n.served.Keys = was.served
	switch {
	case n.report != nil:
		n.configured = v.starts(n.report)
	case n.ready:
		n.configured = n.running
	default:
		n.configured = was.configured
	}
	was.configured = n.configured
	if n.managing = v.managing(n.Node); n.managing > 0 || was.manager > 0 {
		// Its mirror pod is gone for a moment when it is started again.
		if n.manager = max(n.managing, was.manager); n.report != nil {
			n.manager = v.managerOf(n.report.Manager)
		}
	}
	was.manager = n.manager
	was.mark, was.managerMark = cmp.Or(n.Mark, was.mark), cmp.Or(v.managerMark(n.Node), was.managerMark)
	n.mark, n.managerMark, n.left = was.mark, was.managerMark, was.left
	c.memory.nodes[n.Node] = was
}

// reachable reports whether pods reach the API server of a node by Service kubernetes. The address may have been given
// to a machine that came since.
func (v *view) reachable(n *node) bool {
	return n.Listed && !slices.ContainsFunc(v.found.Servers, func(s Server) bool {
		return s.Node != n.Node && !s.Leaving && contains([]string{s.Address}, n.Address)
	})
}

// forgetAllBut drops what is remembered of nodes that are gone.
func (c *Cluster) forgetAllBut(nodes []*node) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	maps.DeleteFunc(c.memory.nodes, func(name string, _ nodeMemory) bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool { return n.Node == name })
	})
}

// runs returns the key versions that an API server serves; zero when these are not the keys of a step of a rotation.
func (v *view) runs(s controlplane.Served) rotation.Keys {
	k := rotation.Keys{Sign: v.versions[s.SigningKeyID], External: s.External}
	for _, key := range s.Keys.Keys() {
		if version, ok := v.versions[key.KeyID]; ok {
			k.Verify = append(k.Verify, version)
		}
	}
	return checked(k)
}

// starts returns the key versions that an API server starts with, by what its agent read.
func (v *view) starts(f *agent.Found) rotation.Keys {
	if f.Server.External {
		if f.Signer == nil {
			return rotation.Keys{}
		}
		return checked(f.Signer.Keys)
	}
	k := rotation.Keys{Sign: v.versions[f.Private]}
	for _, kid := range f.Public {
		if version, ok := v.versions[kid]; ok {
			k.Verify = append(k.Verify, version)
		}
	}
	return checked(k)
}

// checked returns keys in their order, or zero keys if they are the keys of no step.
func checked(k rotation.Keys) rotation.Keys {
	slices.Sort(k.Verify)
	if hostkeys.Check(k) != nil {
		return rotation.Keys{}
	}
	return k
}

// managing returns with which key version the kube-controller-manager of a node was started; 0 if none shows itself.
func (v *view) managing(node string) int {
	if !slices.ContainsFunc(v.found.Managers, func(m Manager) bool { return m.Node == node }) {
		return 0
	}
	return v.managerOf(v.managerMark(node))
}

// managerMark returns the mark that the mirror pod of a kube-controller-manager shows.
func (v *view) managerMark(node string) string {
	i := slices.IndexFunc(v.found.Managers, func(m Manager) bool { return m.Node == node })
	if i < 0 {
		return ""
	}
	return v.found.Managers[i].Mark
}

// managerOf returns the version of a mark. Without one, kube-controller-manager was started by others, and may sign
// with any key that sa.key held since: the oldest that is stored is certain to be asked for again.
func (v *view) managerOf(mark string) int {
	version, ok := v.versions[agent.MarkedKid(mark)]
	if !ok && len(v.keys) > 0 {
		version = v.keys[0].Version
	}
	return version
}

// leading names what no component leads, at the latest time of an API server.
func (c *Cluster) leading(ctx context.Context, v *view) (string, error) {
	var now controlplane.Served
	for _, n := range v.nodes {
		if n.ready && n.served.IssuedAt.After(now.IssuedAt) {
			now = n.served
		}
	}
	if now.IssuedAt.IsZero() {
		return "", nil
	}
	waiting, err := c.plane.leaders(ctx, now.IssuedAt)
	if err != nil {
		return "", &unseenError{err}
	}
	return waiting, nil
}

// pending reports whether a change of the node is neither settled nor undone.
func (n *node) pending() bool {
	return n.report != nil && (n.report.Change == agent.Pending || n.report.Change == agent.Undoing)
}

// changed reports whether the API server runs with what it was configured with.
func (n *node) changed() bool { return n.ready && !n.running.IsZero() && n.running.Equal(n.configured) }

// unasked reports whether a signer is on the node, or was to be, that its API server does not ask: the node is on its
// way to a signer, or the way was given up.
func (n *node) unasked() bool {
	return n.report != nil && !n.report.Server.External && n.changed() && !n.pending() &&
		(n.report.Configured.External || n.report.Signer != nil)
}

// begun reports whether the last order was begun and is not carried out: its keys are not those to start with next.
func (n *node) begun() bool {
	return n.pending() && !n.report.Configured.IsZero() && !n.report.Configured.Equal(n.configured)
}

// behind reports whether the API server still has a key that is in its files no more: it was not started again since.
func (n *node) behind() bool {
	if n.report == nil || n.report.Server.External || n.served.External {
		return false
	}
	return slices.ContainsFunc(n.served.Keys.Keys(), func(k jwks.Key) bool {
		return !slices.Contains(n.report.Public, k.KeyID)
	})
}

// foreign are the keys that the API server was last seen to accept and that are no version of ours.
func (v *view) foreign(n *node) []jwks.Key {
	return slices.DeleteFunc(slices.Clone(n.served.Keys.Keys()), func(k jwks.Key) bool {
		_, ours := v.versions[k.KeyID]
		return ours
	})
}

func kidsOf(keys []jwks.Key) (kids []string) {
	for _, k := range keys {
		kids = append(kids, k.KeyID)
	}
	return kids
}

// staying are the nodes but those that are being deleted and no longer serve.
func (v *view) staying() []*node {
	return slices.DeleteFunc(slices.Clone(v.nodes), func(n *node) bool { return n.Leaving })
}

// state is what was seen, in the words of the port.
func (v *view) state() controlplane.State {
	s := controlplane.State{Presence: rotation.PresencePresent}
	if len(v.found.Problems) > 0 {
		return controlplane.State{
			Waiting: "the control plane to be one that Keyturn can rotate: " + v.problemText(), Blocked: true,
		}
	}
	for _, n := range v.nodes {
		s.Servers = append(s.Servers, controlplane.Server{
			Name: n.Node, Endpoint: n.endpoint(), Leaving: n.Leaving, Ready: n.ready,
			Configured: n.configured, Running: n.running, Waiting: n.whyWaiting(), Foreign: kidsOf(v.foreign(n)),
		})
		if n.manager > 0 && !n.Leaving {
			s.ControllerManagers = append(s.ControllerManagers, controlplane.ControllerManager{
				Name: n.Node, Configured: n.manager, Running: n.managing, Ready: true,
			})
		}
		s.Held = append(s.Held, v.held(n)...)
		if n.report != nil {
			s.LeftoversKnown = true
			for _, l := range n.report.Leftovers {
				s.Leftovers = append(s.Leftovers, controlplane.Leftover{Server: n.Node, Path: l.Path, KeyID: l.Kid})
			}
		}
	}
	slices.Sort(s.Held)
	s.Held = slices.Compact(s.Held)
	if v.external() {
		s.Unled = v.leaders // no change restarts an API server, with which the leaders would fall
	} else {
		s.Waiting = v.leaders
	}
	if s.Waiting == "" && v.outdated {
		s.Waiting = fmt.Sprintf("Secret %s/%s to be deleted, which may hold keys of before this step",
			metav1.NamespaceSystem, uploadName)
	}
	s.Waiting = cmp.Or(s.Waiting, v.joining, v.abandoned, v.unheard)
	if s.Waiting == "" && v.idle {
		s.Waiting = "keyturn-agent to be removed from the control-plane nodes"
	}
	return s
}

func (v *view) problemText() string { return strings.Join(v.found.Problems, "; ") }

func (n *node) endpoint() string {
	return fmt.Sprintf("https://%s:%d", n.Address, cmp.Or(n.Port, securePort))
}

// whyWaiting is why the node is not as it should be, in words.
func (n *node) whyWaiting() string {
	switch {
	case n.report != nil && n.report.Change == agent.Undoing:
		return "the agent to put back what the last change replaced"
	case n.report != nil && n.report.KeyProblem != "":
		return "its agent cannot change its keys: " + n.report.KeyProblem
	case n.report != nil && n.report.Server.Problem != "":
		return "its agent cannot change its manifest: " + n.report.Server.Problem
	case n.waiting == "" && n.begun():
		return n.withSigner(cmp.Or(n.left, "its agent to carry out the change"))
	case n.waiting == "" && n.pending() && n.changed() && !n.behind():
		return "its agent to settle the change"
	case n.waiting != "" && n.configured.External:
		return n.withSigner(n.waiting)
	}
	return n.waiting
}

// withSigner adds to what is waited for why the signer of the node does not run, if it does not.
func (n *node) withSigner(waiting string) string {
	if n.signer == "" {
		return waiting
	}
	return waiting + "; " + n.signer
}

// held are the versions whose private key the node has where kube-apiserver or its signer reads it.
func (v *view) held(n *node) []int {
	if n.Leaving {
		return nil
	}
	sign := n.running.Sign
	if n.report != nil {
		sign = v.versions[n.report.Private]
	}
	if sign == 0 {
		return nil
	}
	return []int{sign}
}

// external reports whether all API servers have signers, and are to have them.
func (v *view) external() bool {
	return !slices.ContainsFunc(v.staying(), func(n *node) bool { return !n.configured.External || !n.running.External })
}

// lingering is how long agents stay in Refresh, in which they have nothing to do, since Retire needs them again.
const lingering = 2 * time.Minute

// idle reports whether the agents are there and nothing is left for them. With one key version, nothing but an agent
// that does not answer can be in the way of that: waiting names it.
func (c *Cluster) idle(v *view) (idle bool, waiting string) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	since, now := c.memory.quiet, c.now()
	c.memory.quiet = time.Time{}
	wanted := c.memory.wanted
	if wanted.External != c.external() {
		wanted = rotation.Keys{} // the spec has taken that source back
	}
	if !v.quiet(wanted) {
		return false, ""
	}
	waiting, single := v.silent(), len(v.staying()[0].configured.Verify) == 1
	switch {
	case single:
		return waiting == "", waiting
	case waiting != "":
		return false, "" // Retire needs them again, so nobody waits
	case since.IsZero():
		since = now
	}
	c.memory.quiet = since
	return now.Sub(since) >= lingering, ""
}

// quiet reports whether all nodes have the keys for which agents were made, proven and, as far as their agents answer,
// settled. Those of Publish do not count: the next change comes soon.
func (v *view) quiet(wanted rotation.Keys) bool {
	staying := v.staying()
	if len(staying) == 0 || !wanted.IsZero() && !wanted.Equal(staying[0].configured) {
		return false
	}
	return v.agents.asked && !slices.ContainsFunc(staying, func(n *node) bool {
		keys := n.configured
		return n.pending() || !n.changed() || n.unasked() || publishing(keys) || !keys.Equal(staying[0].configured)
	})
}

// abandoned names a signer that no API server is to ask any more, in words; empty if there is none.
func (c *Cluster) abandoned(v *view) string {
	if c.external() {
		return ""
	}
	for _, n := range v.staying() {
		if n.unasked() {
			return fmt.Sprintf("keyturn-agent to remove the signer of node %s, which its API server does not ask", n.Node)
		}
	}
	return ""
}

// external reports whether the spec wants API servers to get their keys from a signer.
func (c *Cluster) external() bool { return c.uc.Spec.KeySource() == v1alpha1.KeySourceExternal }

// silent names a node whose agent does not answer, in words; empty if there is none. A change may be unsettled there,
// and copies of a retired key may be left. A node without the label has no agent.
func (v *view) silent() string {
	for _, n := range v.staying() {
		if n.report != nil || n.Unlabelled {
			continue
		}
		why := ""
		if w := v.whyNoAgent(n); w != "" {
			why = " (" + w + ")"
		}
		return fmt.Sprintf("keyturn-agent on node %s to take orders%s, before the agents are removed", n.Node, why)
	}
	return ""
}

// order returns an order for a node. It knows every key version by its public key, and no private key.
func (c *Cluster) order(v *view, n *node, do string) agent.Order {
	o := agent.Order{Do: do, Cluster: c.uc.Identity(), For: n.pod.instance}
	for _, k := range v.keys {
		if public, err := jwks.MarshalPublicKey(k.Signer.Public()); err == nil {
			o.Versions = append(o.Versions, agent.Version{Version: k.Version, Public: string(public)})
		}
	}
	for _, r := range c.retired() {
		o.Retired = append(o.Retired, r.KeyID)
	}
	return o
}
