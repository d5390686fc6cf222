package pools

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

// Executor manages the pools of one cluster during one call.
type Executor struct {
	// Cluster begins the names of new machines.
	Cluster  string
	Pools    []v1alpha1.NodePool
	Machines nodes.Machines
	Client   kubernetes.Interface
	Memory   *Memory
	// JoinTimeout is how long a running machine may take to get its Node object before it is replaced.
	JoinTimeout time.Duration
	Now         time.Time

	// refused collects the evictions that the API server refuses during this call.
	refused map[types.UID]eviction.Refusal
}

// Do carries out a plan. New machines are of keyVersion.
func (e *Executor) Do(ctx context.Context, s *Observed, plan []Chain, keyVersion int) error {
	e.refused = map[types.UID]eviction.Refusal{}
	var errs []error
	for _, todo := range plan {
		errs = append(errs, e.run(ctx, s, todo, keyVersion))
	}
	e.Memory.refuse(e.refused)
	return errors.Join(errs...)
}

// run does the actions of a chain, and stops at the first that fails.
func (e *Executor) run(ctx context.Context, s *Observed, todo Chain, keyVersion int) error {
	for _, a := range todo {
		if err := e.do(ctx, s, a, keyVersion); err != nil {
			return err
		}
	}
	return nil
}

func (e *Executor) do(ctx context.Context, s *Observed, a Action, keyVersion int) error {
	switch a.Step {
	case Create:
		return e.create(ctx, s, a.Pool, keyVersion)
	case Start:
		return e.start(ctx, s.machines[a.Node])
	case Label:
		return e.label(ctx, s.machines[a.Node])
	case Cordon:
		return e.cordon(ctx, s.objects[a.Node])
	case Evict:
		return e.evictAll(ctx, s, a.Node)
	case DeleteNode:
		return e.deleteNode(ctx, a.Node)
	case Remove:
		if _, err := e.Machines.Remove(ctx, a.Node); err != nil {
			return fmt.Errorf("removing machine %s: %w", a.Node, err)
		}
		return nil
	default:
		return fmt.Errorf("unknown step %q", a.Step)
	}
}

// create makes a machine with a new name. A crash before it is made loses only the name.
func (e *Executor) create(ctx context.Context, s *Observed, pool string, keyVersion int) error {
	m := nodes.Machine{Name: newName(e.Cluster, pool, s.taken), Pool: pool, KeyVersion: keyVersion}
	s.machines[m.Name] = m
	return e.start(ctx, m)
}

func (e *Executor) start(ctx context.Context, m nodes.Machine) error {
	if err := e.Machines.Ensure(ctx, m, e.pool(m.Pool)); err != nil {
		return fmt.Errorf("starting machine %s: %w", m.Name, err)
	}
	return nil
}

// pool returns a pool of the spec, or an empty one of that name.
func (e *Executor) pool(name string) v1alpha1.NodePool {
	for _, p := range e.Pools {
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

// newName returns a random name that is not taken: <cluster>-<pool>-<5 random characters>.
func newName(cluster, pool string, taken func(string) bool) string {
	base := cluster + "-" + pool
	base = strings.TrimRight(base[:min(len(base), maxName-1-suffixSize)], "-")
	for {
		if name := base + "-" + utilrand.String(suffixSize); !taken(name) {
			return name
		}
	}
}

// label sets the labels of the pool and of the key version on a Node object. It does not touch labels that the pool
// does not name.
func (e *Executor) label(ctx context.Context, m nodes.Machine) error {
	return e.patchMeta(ctx, m.Name, "labels", wantedLabels(m, e.pool(m.Pool)))
}

func (e *Executor) patchMeta(ctx context.Context, node, field string, values map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{field: values}})
	if err != nil {
		return fmt.Errorf("encoding %s of node %s: %w", field, node, err)
	}
	_, err = e.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("setting %s of node %s: %w", field, node, err)
	}
	return nil
}

func (e *Executor) deleteNode(ctx context.Context, name string) error {
	err := e.Client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting node %s: %w", name, err)
	}
	return nil
}

// cordon marks a node as leaving and keeps new pods away. After a crash in between, it is marked, and the next plan
// cordons it.
func (e *Executor) cordon(ctx context.Context, node *corev1.Node) error {
	if err := e.patchMeta(ctx, node.Name, "annotations", map[string]string{AnnotationLeaving: "true"}); err != nil {
		return err
	}
	return e.keepPodsAway(ctx, node)
}
