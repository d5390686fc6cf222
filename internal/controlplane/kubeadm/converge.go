package kubeadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// Converge implements controlplane.Adapter. Each call takes one step: it has the agents made, or settles changes that
// are proven, or goes on with a change that a crash cut off, or begins what the target allows, or removes the agents.
func (c *Cluster) Converge(ctx context.Context, t controlplane.Target, keys []keystore.KeyPair) error {
	c.seen = nil
	v, err := c.look(ctx)
	if err != nil {
		return err
	}
	if err := v.problems(); err != nil {
		return err
	}
	if err := v.stale(t); err != nil {
		return err
	}
	return c.step(ctx, v, change{Target: t, keys: keys})
}

// change is what nodes are to become, and with which private keys.
type change struct {
	controlplane.Target
	keys []keystore.KeyPair
}

// stale refuses a target that others have gone beyond. The agents refuse it too, in one step with their writes.
func (v *view) stale(t controlplane.Target) error {
	for _, n := range v.staying() {
		if n.configured.Stage() > t.Keys.Stage() {
			return fmt.Errorf("node %s: %w", n.Node, controlplane.ErrStale)
		}
		if n.manager > t.ControllerManagerSign {
			return fmt.Errorf("kube-controller-manager of node %s: %w", n.Node, controlplane.ErrStale)
		}
	}
	return nil
}

func (c *Cluster) step(ctx context.Context, v *view, to change) error {
	due := v.due(to)
	pending := slices.DeleteFunc(v.staying(), func(n *node) bool { return !n.pending() })
	c.wake(ctx, v)
	switch {
	case len(due)+len(pending) > 0:
		c.want(to.Keys)
		needed := append(pending, due...)
		if slices.ContainsFunc(due, func(n *node) bool { return n.restarts(to) && !n.refuses(to) }) {
			needed = v.staying() // for its turn
		}
		if missing, err := c.ensureAgents(ctx, v, needed); err != nil || missing {
			return err
		}
	case v.outdated:
		return c.dropUpload(ctx, v.reached())
	case v.idle:
		return c.dismiss(ctx, v, to)
	}
	if len(pending) > 0 {
		// Nothing else begins before these are settled, but for an API server that refuses tokens in use.
		err := c.finish(ctx, v, pending, to)
		due = slices.DeleteFunc(due, func(n *node) bool { return n.pending() || !n.refuses(to) })
		if err != nil || len(due) == 0 {
			return err
		}
	}
	if slices.ContainsFunc(due, func(n *node) bool { return n.restarts(to) }) {
		// Every other agent is to refuse late orders first, which one that is busy cannot.
		var errs []error
		for _, n := range due {
			errs = append(errs, c.begin(ctx, v, n, to))
		}
		return errors.Join(errs...)
	}
	return each(due, func(n *node) error { return c.begin(ctx, v, n, to) })
}

// each does something with all nodes at once.
func each(nodes []*node, do func(*node) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// wake has the kubelets of nodes start kube-controller-manager whose manifests have changed. After the old process has
// ended, a kubelet would else try again after ten to fifteen seconds only. One that cannot be woken does so.
func (c *Cluster) wake(ctx context.Context, v *view) {
	for _, n := range v.staying() {
		if n.report != nil && n.managing > 0 && n.managing != n.manager {
			_ = c.plane.wake(ctx, n.Node, c.now())
		}
	}
}

// want notes for which keys agents are there.
func (c *Cluster) want(k rotation.Keys) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	c.memory.wanted = k
}

// due are the nodes that are to be changed now.
func (v *view) due(to change) (due []*node) {
	for _, n := range v.staying() {
		next := n.next(to)
		live := to.Live && n.configured.External && to.Keys.External && !n.configured.Equal(to.Keys)
		if next || live || v.managerDue(n, to) || n.abandoned(to) {
			due = append(due, n)
		}
	}
	return due
}

// next reports whether a node is the one that may be changed now, and has other keys.
func (n *node) next(to change) bool {
	has := n.configured.Equal(to.Keys) && n.running.Equal(to.Keys) && !n.serves(to.DropForeign)
	return n.Node == to.Next && !has
}

// abandoned reports whether a signer is to go from a node on which no API server is to ask it.
func (n *node) abandoned(to change) bool { return !to.Keys.External && n.unasked() }

// serves reports whether the API server was last seen to accept one of these keys.
func (n *node) serves(kids []string) bool {
	return slices.ContainsFunc(kids, func(kid string) bool {
		_, ok := n.served.Keys.Lookup(kid)
		return ok
	})
}

// restarts reports whether the next change of a node takes its API server out. One that is away with a signer in its
// manifest starts with that, and takes its next keys as it is.
func (n *node) restarts(to change) bool {
	return n.next(to) && !(n.configured.External && to.Keys.External && (n.running.External || !n.ready))
}

// managerDue reports whether the kube-controller-manager of a node is to be started again: sa.key holds the key
// already.
func (v *view) managerDue(n *node, to change) bool {
	return n.manager != 0 && n.manager != to.ControllerManagerSign && n.configured.Sign == to.ControllerManagerSign
}

// refuses reports whether an API server refuses tokens that are in use, which is worse than being away.
func (n *node) refuses(to change) bool {
	return n.ready && !slices.Contains(n.running.Verify, to.Keys.Sign)
}

// patience is how many calls wait for agents without a word.
const patience = 20

// ensureAgents has agents made, and reports whether one of these nodes has none yet.
func (c *Cluster) ensureAgents(ctx context.Context, v *view, nodes []*node) (missing bool, err error) {
	if err := c.agents.ensure(ctx); err != nil {
		return false, err
	}
	without := slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n.report != nil })
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if len(without) == 0 {
		c.memory.missing = 0
		return false, nil
	}
	if c.memory.missing++; c.memory.missing <= patience {
		return true, nil
	}
	var names []string
	why := ""
	for _, n := range without {
		names = append(names, n.Node)
		why = cmp.Or(why, v.whyNoAgent(n))
	}
	if why != "" {
		why = " (" + why + ")"
	}
	return true, fmt.Errorf("keyturn-agent on node %s takes no orders yet%s", strings.Join(names, ", "), why)
}

// whyNoAgent is why the agent of a node takes no orders, in words; empty if nothing shows it.
func (v *view) whyNoAgent(n *node) string {
	if n.Unlabelled {
		return n.Server.Waiting
	}
	return v.agents.waiting[n.Node]
}

// finish settles the changes that are proven, and goes on with the others.
func (c *Cluster) finish(ctx context.Context, v *view, pending []*node, to change) error {
	return each(pending, func(n *node) error {
		if !n.changed() || n.behind() || n.begun() && n.report.Configured.Equal(to.Keys) {
			return c.again(ctx, v, n, to)
		}
		if err := c.proven(ctx, v, n); err != nil {
			return fmt.Errorf("API server on node %s: %w", n.Node, err)
		}
		o := c.order(v, n, agent.Settle)
		o.Restart = n.report.Mark
		_, err := c.send(ctx, n, o)
		return err
	})
}

// again sends the order of a change once more: a crash may have cut it off, and its agent knows.
func (c *Cluster) again(ctx context.Context, v *view, n *node, to change) error {
	if n.report.Configured.IsZero() || n.report.Change == agent.Undoing {
		return nil
	}
	o, err := c.converge(v, n, n.report.Configured, to)
	if err != nil {
		return err
	}
	o.Turn = n.report.Turn
	if o.Restart = n.report.Mark; c.ignored(n) {
		if o.Restart, err = c.mark(n, n.report.Configured); err != nil {
			return err
		}
		o.Again = n.report.Mark
	}
	_, err = c.send(ctx, n, o)
	return err
}

// ignoredFor is how long a kubelet may take to end kube-apiserver after its manifest changed. It takes up to 45 s, and
// some versions of it sometimes never did.
const ignoredFor = 2 * time.Minute

// ignored reports whether an API server has gone on for ignoredFor as if its manifest had not been written.
func (c *Cluster) ignored(n *node) bool {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	was := c.memory.nodes[n.Node]
	now := c.now()
	if !n.ready || n.report.Server.Restart != n.report.Mark || was.written != n.report.Mark {
		was.written, was.since = n.report.Mark, now
		c.memory.nodes[n.Node] = was
		return false
	}
	return now.Sub(was.since) > ignoredFor
}

// proven asks an API server itself whether it has the keys that it was configured with, and no other version.
func (c *Cluster) proven(ctx context.Context, v *view, n *node) error {
	proof, err := c.plane.prove(ctx, n.Server, controlplane.Question{Keys: v.keys, External: n.running.External})
	if err != nil {
		return err
	}
	for _, k := range v.keys {
		accepted := slices.Contains(proof.Accepts, k.Version)
		if wanted := slices.Contains(n.configured.Verify, k.Version); accepted != wanted {
			return fmt.Errorf("it has not proven which tokens of key version %d it accepts", k.Version)
		}
	}
	if proof.Signs != n.configured.Sign {
		return fmt.Errorf("it has not proven to sign with key version %d", n.configured.Sign)
	}
	return nil
}

// begin changes a node, if it may be changed now.
func (c *Cluster) begin(ctx context.Context, v *view, n *node, to change) error {
	want := n.configured // but for kube-controller-manager
	switch {
	case n.next(to):
		if !n.refuses(to) && !v.othersServe(n) {
			return nil
		}
		want = to.Keys
		lags := n.refuses(to) || !slices.Contains(n.configured.Verify, to.Keys.Sign)
		if lags && n.restarts(to) && len(v.keeps(n, to)) > 0 {
			want.External = false // it is to accept tokens in use first, and gets its signer once its other keys are released
		}
	case to.Live && n.configured.External && to.Keys.External:
		want = to.Keys
	case n.abandoned(to) && !n.report.Configured.External:
		_, err := c.send(ctx, n, c.order(v, n, agent.Settle)) // nothing is left of it but files
		return err
	}
	o, err := c.converge(v, n, want, to)
	if err != nil {
		return err
	}
	if n.restarts(to) {
		if o.Restart, err = c.mark(n, want); err != nil {
			return err
		}
		if o.Turn, err = c.turn(ctx, v, n); err != nil {
			return err
		}
	}
	if kid := v.kid(want.Sign); want.Sign == to.ControllerManagerSign && (v.managerDue(n, to) || n.report.Private != kid) {
		// Not what its mirror pod showed last: kubeadm upgrade, which drops it, waits for another manifest to run.
		o.Manager = agent.ManagerMark(kid, n.managerMark == agent.ManagerMark(kid, false))
	}
	switch {
	case publishing(want) && v.first(want):
		// Crash here or below: a node that joins asks for the upload to be made again.
		err = c.dropUpload(ctx, 0)
	case n.configured.Stage() < want.Stage() && want.Stage() == v.agents.droppedFor:
		// The node came since, and may have been used for an upload itself.
		err = c.agents.noteUpload(ctx, v.agents.dropped, 0)
	}
	if err != nil {
		return err
	}
	_, err = c.send(ctx, n, o)
	return err
}

// turn takes the turn for a restart of a node's API server, which fails if somebody else has taken it since this look
// began. It returns once every other agent refuses restarts of earlier turns: one that a paused controller sends may
// arrive at any time. Only a change of an API server that refuses tokens comes here while some agent does not answer,
// and passes it over.
func (c *Cluster) turn(ctx context.Context, v *view, but *node) (int64, error) {
	next := v.agents.turn
	for _, n := range v.nodes {
		if n.report != nil {
			next = max(next, n.report.Turn)
		}
	}
	next++
	if err := c.agents.take(ctx, v.agents.turn, next); err != nil {
		return 0, err
	}
	v.agents.turn = next
	for _, n := range v.staying() {
		if n == but || n.report == nil {
			continue
		}
		o := c.order(v, n, agent.Fence)
		o.Turn = next
		r, err := c.agents.apply(ctx, *n.pod, o)
		if err == nil && r.Answer != agent.Done {
			err = fmt.Errorf("it answers %s: %s", r.Answer, r.Message)
		}
		if err != nil {
			return 0, fmt.Errorf("having the agent on node %s refuse late orders: %w", n.Node, err)
		}
	}
	return next, nil
}

// kid returns the kid of a stored key version.
func (v *view) kid(version int) string {
	for _, k := range v.keys {
		if k.Version == version {
			return k.KeyID
		}
	}
	return ""
}

// othersServe reports whether all other API servers that stay serve, and no change of theirs is under way.
func (v *view) othersServe(but *node) bool {
	return !slices.ContainsFunc(v.staying(), func(n *node) bool { return n != but && (!n.ready || n.pending()) })
}

// mark returns a value for the restart of an API server, or the reason why the change is not made again. No change of
// the node had it before, and it is not what the mirror pod showed last: kubeadm upgrade, which drops it, waits for
// another manifest to run.
func (c *Cluster) mark(n *node, want rotation.Keys) (string, error) {
	prefix := ""
	if retry := c.uc.Annotations[v1alpha1.AnnotationRetryChange]; retry != "" {
		prefix = "retry " + digest(retry) + " "
	}
	for attempt := 1; ; attempt++ {
		mark := prefix + agent.RestartMark(want, attempt)
		if n.report.Change == agent.Undone && agent.SameRestart(n.report.Mark, mark) {
			return "", controlplane.Blocked(fmt.Errorf("kube-apiserver on node %s did not become ready with its next keys, and "+
				"keyturn-agent has put back those of before: find out why (its log, and the events of its pod), and then "+
				"annotate the UserCluster with %s=VALUE, a new one each time%s", n.Node, v1alpha1.AnnotationRetryChange,
				c.logEnd(n)))
		}
		if n.report.Server.Restart != mark && n.mark != mark {
			return mark, nil
		}
	}
}

// converge is the order that gives a node keys.
func (c *Cluster) converge(v *view, n *node, want rotation.Keys, to change) (agent.Order, error) {
	o := c.order(v, n, agent.Converge)
	o.Keys, o.SignerImage, o.SignerNamespace = want, c.images.Signer, c.images.Namespace
	if want.External && o.SignerImage == "" {
		return o, controlplane.Blocked(errors.New("keyturn-controller was started without --signer-image, and source " +
			"external needs keyturn-signer on control-plane nodes"))
	}
	if err := v.releaseFirst(n, want, to); err != nil {
		return o, err
	}
	// The flag is there from the first restart of a rotation to the last one.
	o.RetryAfter = c.uc.Spec.Infrastructure.SendsRetryAfter() && len(want.Verify) == 2 && !want.External
	if err := seal(&o, to.keys); err != nil {
		return o, err
	}
	v.keepForeign(n, to, &o)
	return o, nil
}

// seal adds the private keys that an order needs: those that a signer serves, or the one that signs.
func seal(o *agent.Order, keys []keystore.KeyPair) error {
	for i := range o.Versions {
		version := o.Versions[i].Version
		if version != o.Keys.Sign && !(o.Keys.External && slices.Contains(o.Keys.Verify, version)) {
			continue
		}
		at := slices.IndexFunc(keys, func(k keystore.KeyPair) bool { return k.Version == version })
		if at < 0 {
			continue // the agent knows whether it needs the key
		}
		private, err := token.MarshalPrivateKey(keys[at].Signer)
		if err != nil {
			return err
		}
		o.Versions[i].Private, err = agent.Seal(private, o.For, o.Cluster, version)
		clear(private)
		if err != nil {
			return err
		}
	}
	return nil
}

// keepForeign has the node go on accepting keys that are no version of ours, but for those that may go.
func (v *view) keepForeign(n *node, to change, o *agent.Order) {
	o.Retired = append(o.Retired, to.DropForeign...)
	for _, k := range v.kept(n, to) {
		if public, err := jwks.MarshalPublicKey(k.Public); err == nil {
			o.Foreign = append(o.Foreign, string(public))
		}
	}
	for _, kid := range n.report.Public {
		if v.unknown(n, kid, to) {
			o.Keep = append(o.Keep, kid)
		}
	}
}

// kept are the keys that the API server of a node goes on accepting although they are no version of ours: all but those
// that may go.
func (v *view) kept(n *node, to change) []jwks.Key {
	return slices.DeleteFunc(v.foreign(n), func(k jwks.Key) bool { return slices.Contains(to.DropForeign, k.KeyID) })
}

// keeps are the kids of the keys that are no version of ours and may not go. An API server that was never seen, and has
// its keys from files, may accept all that are there.
func (v *view) keeps(n *node, to change) []string {
	kids := kidsOf(v.kept(n, to))
	if n.served.Keys.Len() == 0 && !n.report.Server.External {
		for _, kid := range n.report.Public {
			if v.unknown(n, kid, to) {
				kids = append(kids, kid)
			}
		}
	}
	return kids
}

// unknown reports whether a key in the files of a node is no version of ours, and none that its API server was seen to
// accept or that may go.
func (v *view) unknown(n *node, kid string, to change) bool {
	_, ours := v.versions[kid]
	return kid != "" && !ours && !n.serves([]string{kid}) && !slices.Contains(to.DropForeign, kid)
}

// releaseFirst is why a node cannot get keys before somebody has released others; nil if it can.
func (v *view) releaseFirst(n *node, want rotation.Keys, to change) error {
	kid, held := n.report.Private, v.keeps(n, to)
	switch {
	case v.unknown(n, kid, to):
		return controlplane.Blocked(fmt.Errorf("sa.key on node %s is key %s, which is no key version of the cluster, and "+
			"kube-apiserver there was not seen to accept it: copy sa.key from a node whose kube-apiserver signs with a key "+
			"version, or have Keyturn replace it: %s", n.Node, kid, v.askRelease(kid)))
	case want.External && len(held) > 0:
		return controlplane.Blocked(fmt.Errorf("API server %s accepts foreign keys, and is to get its keys from a signer, "+
			"which has none but key versions: release the foreign keys first; their tokens are refused afterwards: %s",
			n.Node, v.askRelease(held...)))
	}
	return nil
}

// askRelease asks for the annotation that releases these keys and all foreign ones: it replaces the one of before.
func (v *view) askRelease(kids ...string) string {
	for _, n := range v.staying() {
		kids = append(kids, kidsOf(v.foreign(n))...)
	}
	slices.Sort(kids)
	return fmt.Sprintf("annotate the cluster with %s=%s", v1alpha1.AnnotationReleaseForeignKeys,
		strings.Join(slices.Compact(kids), ","))
}

// dismiss removes the agents, unless somebody else has begun a change since this look. Copies of retired keys go first.
func (c *Cluster) dismiss(ctx context.Context, v *view, to change) error {
	left := make([]bool, len(v.nodes))
	err := each(v.nodes, func(n *node) error {
		if n.report == nil {
			return nil
		}
		o := c.order(v, n, agent.Settle)
		for _, k := range v.keys {
			if k.Version < to.Keys.Verify[0] {
				o.Retired = append(o.Retired, k.KeyID)
			}
		}
		if len(o.Retired) == 0 {
			return nil
		}
		done, err := c.send(ctx, n, o)
		left[slices.Index(v.nodes, n)] = !done
		return err
	})
	if err != nil || slices.Contains(left, true) {
		return err
	}
	return c.agents.dismiss(ctx, v.agents)
}

// send has a node's agent carry out an order, and reports whether it has. Answers that another call will get over are
// no error.
func (c *Cluster) send(ctx context.Context, n *node, o agent.Order) (done bool, err error) {
	r, err := c.agents.apply(ctx, *n.pod, o)
	if err != nil {
		return false, fmt.Errorf("node %s: %w", n.Node, err)
	}
	if o.Do == agent.Converge {
		c.note(n.Node, o.Keys, r)
	}
	return r.Answer == agent.Done, answer(n.Node, r)
}

// note remembers with which keys an API server starts next, since its agent may not answer while it is away, or why its
// agent has yet to carry out the order.
func (c *Cluster) note(node string, ordered rotation.Keys, r agent.Report) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	was := c.memory.nodes[node]
	if was.left = ""; r.Answer == agent.Waiting {
		was.left = r.Message
	}
	if r.Answer == agent.Done {
		was.configured = ordered
	}
	c.memory.nodes[node] = was
}

func answer(node string, r agent.Report) error {
	switch r.Answer {
	case agent.Done, agent.Waiting, agent.CannotOpen, agent.Busy, agent.Unsettled:
		return nil
	case agent.Stale:
		return fmt.Errorf("node %s: %w: %s", node, controlplane.ErrStale, r.Message)
	}
	return controlplane.Blocked(fmt.Errorf("node %s: %s", node, r.Message))
}
