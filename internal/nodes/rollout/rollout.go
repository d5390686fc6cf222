// Package rollout implements nodes.Adapter with machines, or with only the API of a cluster.
//
// Start with Rollouts.Open. A Rollout lists Node objects and machines once per call. The packages pools, tokens and
// evict each observe, plan and do their part: which machines are made and removed, which tokens the pods hold on those
// that stay, and which pods are older than the key. It keeps no important state: what it remembers (how long a machine
// has been awaited, which evictions were refused, when tokens were read) affects only texts and timeouts.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/evict"
	"github.com/keyturn/keyturn/internal/nodes/pools"
	"github.com/keyturn/keyturn/internal/nodes/tokens"
)

// joinTimeout is how long a running machine may take to get its Node object before it is replaced.
const joinTimeout = 10 * time.Minute

// tokensEvery is how often the tokens on a node that keeps its pods are read.
const tokensEvery = time.Second

// Cluster is what a Rollout needs to know about a cluster.
type Cluster struct {
	// Name begins the names of machines; UID identifies the cluster between calls.
	Name string
	UID  types.UID
	// Pools, NodeRefresh and TokenReload are from its spec.
	Pools       []v1alpha1.NodePool
	NodeRefresh v1alpha1.NodeRefresh
	TokenReload time.Duration
	// Machines manages the machines of its pools. If it is nil, Keyturn makes no nodes, and NodeRefresh must be Evict,
	// Wait or, with a Roller, Replace.
	Machines nodes.Machines
	// Refresher replaces the tokens on its machines. If it is nil, NodeRefresh must be Replace, unless Machines is nil.
	Refresher nodes.Refresher
	// Roller makes another system replace its nodes, if there are no machines.
	Roller nodes.Roller
	// Client reaches its API servers, with a client certificate and never with a token of a key that is being rotated.
	Client func(context.Context) (kubernetes.Interface, error)
}

// Rollouts remembers clusters between calls. The zero value is ready for use.
type Rollouts struct {
	mu sync.Mutex
	of map[types.UID]*memory
}

// memory is what is remembered about one cluster.
type memory struct {
	pools  pools.Memory
	tokens tokens.Memory
	evict  evict.Memory
}

// Open returns the nodes of a cluster. It makes no request.
func (r *Rollouts) Open(c Cluster) *Rollout {
	return &Rollout{Cluster: c, rollouts: r, joinTimeout: joinTimeout, tokensEvery: tokensEvery, now: time.Now}
}

// remember returns the memory of a cluster, creating it on first use.
func (r *Rollouts) remember(cluster types.UID) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[types.UID]*memory{}
	}
	if r.of[cluster] == nil {
		r.of[cluster] = &memory{}
	}
	return r.of[cluster]
}

// Forget drops everything about a cluster.
func (r *Rollouts) Forget(cluster types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, cluster)
}

// Rollout is the nodes of one cluster.
type Rollout struct {
	Cluster
	rollouts    *Rollouts
	joinTimeout time.Duration
	tokensEvery time.Duration
	now         func() time.Time
}

var _ nodes.Adapter = (*Rollout)(nil)

// Observe implements nodes.Adapter.
func (r *Rollout) Observe(ctx context.Context, keys nodes.Keys) (nodes.State, error) {
	c, err := r.gather(ctx, keys)
	if err != nil {
		return nodes.State{}, err
	}
	return c.state(), nil
}

// Converge implements nodes.Adapter.
func (r *Rollout) Converge(ctx context.Context, keys nodes.Keys) error {
	c, err := r.gather(ctx, keys)
	if err != nil {
		return err
	}
	machines := pools.Plan(r.Pools, c.machines.Views, r.oldest(keys))
	refresh := c.held.Plan(c.seen, pools.Going(machines))
	if c.aged.Unnoted(c.pods) {
		return errors.Join(c.aged.Note(ctx), c.pools.Do(ctx, c.machines, machines, keys.Next))
	}
	return errors.Join(
		c.roll(ctx),
		c.pools.Do(ctx, c.machines, machines, keys.Next),
		c.held.Do(ctx, c.seen, refresh),
		c.aged.Do(ctx, c.pods),
	)
}

// oldest returns the oldest key version that a machine may have.
func (r *Rollout) oldest(keys nodes.Keys) int {
	if r.NodeRefresh.KeepsNodes() {
		return 0
	}
	return keys.Next
}

// Delete implements nodes.Adapter. It does not need the cluster's API servers, which may be gone.
func (r *Rollout) Delete(ctx context.Context) (bool, error) {
	all, err := r.list(ctx)
	if err != nil {
		return false, err
	}
	var errs []error
	left := len(all)
	for _, m := range all {
		gone, err := r.Machines.Remove(ctx, m.Name)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("removing machine %s: %w", m.Name, err))
		case gone:
			left--
		}
	}
	if left == 0 {
		r.rollouts.Forget(r.UID)
	}
	return left == 0, errors.Join(errs...)
}

// observation is the parts of a cluster, and what each observed.
type observation struct {
	cluster   Cluster
	pools     pools.Executor
	machines  *pools.Observed
	held      tokens.Executor
	seen      *tokens.Observed
	aged      evict.Executor
	pods      *evict.Observed
	unmanaged []*corev1.Node
	// rolling is what the replacement of nodes by another system waits for.
	rolling []nodes.Reason
}

// rolls reports whether another system replaces the nodes.
func (c Cluster) rolls() bool {
	return c.Machines == nil && c.Roller != nil && c.NodeRefresh == v1alpha1.NodeRefreshReplace
}

// rollDue reports whether another system should replace nodes, and it is recorded since when tokens are new.
func (c *observation) rollDue() bool {
	if !c.cluster.rolls() || c.held.Keys.Old == 0 || c.pods.Since().IsZero() {
		return false
	}
	return slices.ContainsFunc(c.unmanaged, func(n *corev1.Node) bool {
		return !c.cluster.Roller.Keeps(n) && c.aged.HasOld(c.pods, n.Name)
	})
}

// roll requests the replacement of nodes with a pod from before tokens were new.
func (c *observation) roll(ctx context.Context) error {
	if !c.rollDue() {
		return nil
	}
	return c.cluster.Roller.Roll(ctx, c.pods.Since())
}

// check returns an error if the cluster lacks something that its spec requires.
func (c Cluster) check() error {
	switch {
	case c.rolls():
	case c.Machines == nil && c.NodeRefresh != v1alpha1.NodeRefreshEvict && c.NodeRefresh != v1alpha1.NodeRefreshWait:
		return fmt.Errorf("cluster %s: Keyturn did not make its nodes, as nodeRefresh %s needs: use %s or %s",
			c.Name, c.NodeRefresh, v1alpha1.NodeRefreshEvict, v1alpha1.NodeRefreshWait)
	case c.Machines != nil && c.Refresher == nil && c.NodeRefresh.KeepsNodes():
		return fmt.Errorf("cluster %s: its machines cannot have their tokens replaced, as nodeRefresh %s wants: use %s",
			c.Name, c.NodeRefresh, v1alpha1.NodeRefreshReplace)
	}
	return nil
}

// gather observes a cluster. It lists Node objects before machines, as pools.Executor.Observe requires.
func (r *Rollout) gather(ctx context.Context, keys nodes.Keys) (*observation, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	client, err := r.Client(ctx)
	if err != nil {
		return nil, fmt.Errorf("reaching the API servers of cluster %s: %w", r.Name, err)
	}
	objects, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the nodes of cluster %s: %w", r.Name, err)
	}
	machines, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	c := r.open(client, keys)
	if c.machines, err = c.pools.Observe(ctx, objects.Items, machines); err != nil {
		return nil, err
	}
	var staying []tokens.Candidate
	staying, c.unmanaged = join(objects.Items, machines, c.machines.Views)
	if err := c.observePods(ctx, objects.Items); err != nil {
		return nil, err
	}
	if !r.NodeRefresh.KeepsNodes() {
		staying = nil
	}
	for i, m := range staying {
		staying[i].Evicted = c.aged.KeyVersion(c.pods, m.Name) >= keys.Next
	}
	if c.seen, err = c.held.Observe(ctx, staying); err == nil && c.rollDue() {
		c.rolling, err = c.cluster.Roller.Reasons(ctx, c.pods.Since())
	}
	return c, err
}

// observePods observes the pods: those on nodes that Keyturn did not make, and all if pods are evicted or if the tokens
// on all machines are new.
func (c *observation) observePods(ctx context.Context, objects []corev1.Node) error {
	judged := c.unmanaged
	if c.cluster.NodeRefresh == v1alpha1.NodeRefreshEvict {
		judged = nil
		for i := range objects {
			judged = append(judged, &objects[i])
		}
	}
	proven := nodes.Oldest(c.machines.Nodes()) >= c.held.Keys.Next
	var err error
	c.pods, err = c.aged.Observe(ctx, judged, proven)
	return err
}

func (r *Rollout) open(client kubernetes.Interface, keys nodes.Keys) *observation {
	memory, now := r.rollouts.remember(r.UID), r.now()
	return &observation{
		cluster: r.Cluster,
		pools: pools.Executor{
			Cluster: r.Name, Pools: r.Pools, Machines: r.Machines, Client: client,
			Memory: &memory.pools, JoinTimeout: r.joinTimeout, Now: now,
		},
		held: tokens.Executor{
			Policy: tokens.Policy{How: r.NodeRefresh, KeyVersion: keys.Next, Reload: r.TokenReload},
			Keys:   keys, Refresher: r.Refresher, Client: client,
			Memory: &memory.tokens, Every: r.tokensEvery, Now: now, Clock: r.now,
		},
		aged: evict.Executor{
			Cluster: string(r.UID),
			How:     r.NodeRefresh, Unread: r.Machines == nil, Reload: r.TokenReload, Rolled: r.rolls(), Keeps: r.keeps(),
			Keys: keys, Client: client,
			Memory: &memory.evict, Every: r.podsEvery(), Now: now,
		},
	}
}

// keeps returns which nodes another system keeps although it replaces others; nil if none does.
func (c Cluster) keeps() func(*corev1.Node) bool {
	if !c.rolls() {
		return nil
	}
	return c.Roller.Keeps
}

// podsEvery is how often pods are listed: more often while they are evicted.
func (r *Rollout) podsEvery() time.Duration {
	if r.NodeRefresh == v1alpha1.NodeRefreshEvict {
		return 2 * r.tokensEvery
	}
	return 10 * r.tokensEvery
}

// list lists the machines. If tokens are not replaced on them, it ignores a refresh that was begun before.
func (r *Rollout) list(ctx context.Context) ([]nodes.Machine, error) {
	if r.Machines == nil {
		return nil, nil
	}
	machines, err := r.Machines.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the machines of cluster %s: %w", r.Name, err)
	}
	if !r.NodeRefresh.KeepsPods() {
		for i := range machines {
			machines[i].Refresh = nodes.Refresh{}
		}
	}
	return machines, nil
}

// join returns the machines that stay, and the Node objects that Keyturn did not make.
func join(objects []corev1.Node, machines []nodes.Machine, views []pools.View) (
	staying []tokens.Candidate, unmanaged []*corev1.Node,
) {
	object := map[string]*corev1.Node{}
	for i := range objects {
		object[objects[i].Name] = &objects[i]
	}
	view := map[string]pools.View{}
	for _, v := range views {
		view[v.Name] = v
	}
	for _, m := range machines {
		if v := view[m.Name]; !v.Leaving {
			staying = append(staying, tokens.Candidate{Machine: m, Object: object[m.Name], Ready: v.Ready})
		}
	}
	for i := range objects {
		if _, known := view[objects[i].Name]; !known {
			unmanaged = append(unmanaged, &objects[i])
		}
	}
	return staying, unmanaged
}

// state returns what was observed, as package nodes describes it.
func (c *observation) state() nodes.State {
	st := nodes.State{
		Nodes:     append(c.machines.Nodes(), c.aged.Nodes(c.pods, c.unmanaged)...),
		Converged: pools.Converged(c.cluster.Pools, c.machines.Views),
	}
	st.Oldest = nodes.Oldest(st.Nodes)
	st.Holders, st.HoldersKnown = c.pods.Holders()
	st.Waiting, st.Blocked = nodes.Join(slices.Concat(
		c.pools.Reasons(c.machines), c.held.Reasons(c.seen), c.aged.Reasons(c.pods), c.rolling))
	return st
}
