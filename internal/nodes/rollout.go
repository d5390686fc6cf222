package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// AnnotationLeaving is put on the Node object of a node that was chosen to go. It is never taken back:
// whoever uncordons such a node sees it cordoned again.
const AnnotationLeaving = "keyturn.dev/leaving"

// DefaultJoinTimeout is how long a machine that runs may take to get its Node object before it is replaced.
const DefaultJoinTimeout = 10 * time.Minute

// tokensEvery is how often the tokens of a node are looked at that is to keep its pods.
const tokensEvery = time.Second

// Rollout is the Adapter over plain Machines. It keeps no state that matters: what it remembers (since when a
// machine is awaited, which evictions were refused) only goes into words and patience.
type Rollout struct {
	machines    func(*v1alpha1.UserCluster) (Machines, error)
	client      func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error)
	joinTimeout time.Duration
	tokensEvery time.Duration
	now         func() time.Time

	mu       sync.Mutex
	memories map[types.NamespacedName]*memory
}

var _ Adapter = (*Rollout)(nil)

// NewRollout returns a Rollout. machines returns the machines of a cluster; it works for a cluster without
// node pools on any host. client reaches the API servers of a cluster, by client certificate and never by a
// token of a key that is being rotated.
func NewRollout(
	machines func(*v1alpha1.UserCluster) (Machines, error),
	client func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error),
) *Rollout {
	return &Rollout{
		machines:    machines,
		client:      client,
		joinTimeout: DefaultJoinTimeout,
		tokensEvery: tokensEvery,
		now:         time.Now,
		memories:    map[types.NamespacedName]*memory{},
	}
}

// Observe implements Adapter.
func (r *Rollout) Observe(ctx context.Context, uc *v1alpha1.UserCluster) (State, error) {
	c, err := r.open(ctx, uc)
	if err != nil {
		return State{}, err
	}
	s, err := c.look(ctx)
	if err != nil {
		return State{}, err
	}
	return c.state(s), nil
}

// Converge implements Adapter.
func (r *Rollout) Converge(ctx context.Context, uc *v1alpha1.UserCluster, keyVersion int) error {
	c, err := r.open(ctx, uc)
	if err != nil {
		return err
	}
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	c.refused = map[types.UID]refusal{}
	var errs []error
	for _, todo := range decide(uc.Spec.NodePools, s.views, policyOf(uc, keyVersion), c.now) {
		errs = append(errs, c.run(ctx, s, todo, keyVersion))
	}
	c.memory.refuse(c.refused)
	return errors.Join(errs...)
}

// Delete implements Adapter. It does not ask the cluster's API servers, which may be gone.
func (r *Rollout) Delete(ctx context.Context, uc *v1alpha1.UserCluster) (bool, error) {
	machines, err := r.machines(uc)
	if err != nil {
		return false, fmt.Errorf("reaching the machines of cluster %s: %w", uc.Name, err)
	}
	all, err := machines.List(ctx)
	if err != nil {
		return false, fmt.Errorf("listing the machines of cluster %s: %w", uc.Name, err)
	}
	var errs []error
	left := len(all)
	for _, m := range all {
		gone, err := machines.Remove(ctx, m.Name)
		if err != nil {
			errs = append(errs, fmt.Errorf("removing machine %s: %w", m.Name, err))
		}
		left -= count(gone && err == nil)
	}
	if left == 0 {
		r.forget(uc)
	}
	return left == 0, errors.Join(errs...)
}

// cluster is one cluster during one call.
type cluster struct {
	*v1alpha1.UserCluster
	machines    Machines
	client      kubernetes.Interface
	memory      *memory
	joinTimeout time.Duration
	tokensEvery time.Duration
	now         time.Time
	// refused collects the evictions that the API server refuses during this call.
	refused map[types.UID]refusal
}

func (r *Rollout) open(ctx context.Context, uc *v1alpha1.UserCluster) (*cluster, error) {
	machines, err := r.machines(uc)
	if err != nil {
		return nil, fmt.Errorf("reaching the machines of cluster %s: %w", uc.Name, err)
	}
	client, err := r.client(ctx, uc)
	if err != nil {
		return nil, fmt.Errorf("reaching the API servers of cluster %s: %w", uc.Name, err)
	}
	return &cluster{
		UserCluster: uc, machines: machines, client: client,
		memory: r.remember(uc), joinTimeout: r.joinTimeout, tokensEvery: r.tokensEvery, now: r.now(),
	}, nil
}

// run does the actions of a chain, and stops at the first that fails or is not through.
func (c *cluster) run(ctx context.Context, s *sight, todo chain, keyVersion int) error {
	for _, a := range todo {
		if err := c.do(ctx, s, a, keyVersion); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) do(ctx context.Context, s *sight, a action, keyVersion int) error {
	switch a.Step {
	case stepCreate:
		return c.create(ctx, s, a.Pool, keyVersion)
	case stepStart:
		return c.start(ctx, s.machines[a.Node])
	case stepLabel:
		return c.label(ctx, s.nodes[a.Node], s.machines[a.Node])
	case stepCordon:
		return c.cordon(ctx, s.nodes[a.Node])
	case stepEvict:
		return c.evictAll(ctx, s, a.Node)
	case stepDeleteNode:
		return c.deleteNode(ctx, a.Node)
	case stepRemove:
		if _, err := c.machines.Remove(ctx, a.Node); err != nil {
			return fmt.Errorf("removing machine %s: %w", a.Node, err)
		}
		return nil
	case stepBegin, stepProve, stepRefreshed:
		return c.remember(ctx, s, a, keyVersion)
	case stepRestartKubelet:
		if err := c.machines.RestartKubelet(ctx, a.Node); err != nil {
			return fmt.Errorf("restarting the kubelet of machine %s: %w", a.Node, err)
		}
		return nil
	default:
		return fmt.Errorf("unknown step %q", a.Step)
	}
}

// remember keeps with a machine how far the replacement of its tokens is.
func (c *cluster) remember(ctx context.Context, s *sight, a action, keyVersion int) error {
	m := s.machines[a.Node]
	switch a.Step {
	case stepBegin:
		m.Refresh = Refresh{KeyVersion: keyVersion, Since: c.now}
	case stepProve:
		m.Refresh.Proven = s.view(a.Node).Tokens.youngest
	case stepRefreshed:
		m.KeyVersion = keyVersion
		// The label goes first: nobody has nodes converged any more once the last machine is of the new version.
		// Crash in between: both the old label and the new one are right for a machine that is refreshing.
		if node := s.nodes[a.Node]; node != nil {
			if err := c.label(ctx, node, m); err != nil {
				return err
			}
		}
	}
	if err := c.machines.Remember(ctx, m); err != nil {
		return fmt.Errorf("remembering the refresh of machine %s: %w", a.Node, err)
	}
	return nil
}

// create makes a machine under a new name. Crash between naming and making: the name is lost, and nothing else.
func (c *cluster) create(ctx context.Context, s *sight, pool string, keyVersion int) error {
	m := Machine{Name: newName(c.Name, pool, s.taken), Pool: pool, KeyVersion: keyVersion}
	s.machines[m.Name] = m
	return c.start(ctx, m)
}

func (c *cluster) start(ctx context.Context, m Machine) error {
	if err := c.machines.Ensure(ctx, m, c.pool(m.Pool)); err != nil {
		return fmt.Errorf("starting machine %s: %w", m.Name, err)
	}
	return nil
}

// pool returns a pool of the spec, or an empty one of that name.
func (c *cluster) pool(name string) v1alpha1.NodePool {
	for _, p := range c.Spec.NodePools {
		if p.Name == name {
			return p
		}
	}
	return v1alpha1.NodePool{Name: name}
}

// The host name of a machine is a label of its Node object: at most 63 bytes.
const (
	maxName    = 63
	suffixSize = 5
)

// newName draws a name that is not taken: <cluster>-<pool>-<5 random characters>.
func newName(cluster, pool string, taken func(string) bool) string {
	base := cluster + "-" + pool
	base = strings.TrimRight(base[:min(len(base), maxName-1-suffixSize)], "-")
	for {
		if name := base + "-" + utilrand.String(suffixSize); !taken(name) {
			return name
		}
	}
}

// label puts the labels of the pool and of the key version on a Node object. Labels that the pool does not
// name are left alone.
func (c *cluster) label(ctx context.Context, node *corev1.Node, m Machine) error {
	wanted := wantedLabels(m, c.pool(m.Pool))
	return c.patchMeta(ctx, node.Name, "labels", wanted)
}

func (c *cluster) patchMeta(ctx context.Context, node, field string, values map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{field: values}})
	if err != nil {
		return fmt.Errorf("encoding %s of node %s: %w", field, node, err)
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("setting %s of node %s: %w", field, node, err)
	}
	return nil
}

func (c *cluster) deleteNode(ctx context.Context, name string) error {
	err := c.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting node %s: %w", name, err)
	}
	return nil
}

// wantedLabels are the labels that the Node object of a machine must carry.
func wantedLabels(m Machine, pool v1alpha1.NodePool) map[string]string {
	labels := maps.Clone(pool.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelNodePool] = m.Pool
	labels[v1alpha1.LabelKeyVersion] = fmt.Sprint(m.KeyVersion)
	return labels
}
