package pools

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// AnnotationLeaving is set on the Node object of a node that was chosen to be removed. It is never removed: if somebody
// uncordons such a node, it is cordoned again.
const AnnotationLeaving = "keyturn.dev/leaving"

// Observed is the result of one observation of a cluster.
type Observed struct {
	// Views are ordered by name. Nodes that Keyturn did not make have none.
	Views    []View
	machines map[string]nodes.Machine
	objects  map[string]*corev1.Node
	// pods are the pods that must still leave a node, by node. Only nodes that are leaving and cordoned have an entry.
	pods map[string][]corev1.Pod
}

// Nodes returns the views as package nodes describes them.
func (s *Observed) Nodes() []nodes.Node {
	var all []nodes.Node
	for _, v := range s.Views {
		all = append(all, nodes.Node{
			Name: v.Name, Pool: v.Pool, KeyVersion: v.KeyVersion, Ready: v.Ready, Deleting: v.Leaving,
		})
	}
	return all
}

// Ours reports whether a Node object belongs to a machine that Keyturn made, even if that is gone.
func Ours(node *corev1.Node) bool {
	_, ours := node.Labels[v1alpha1.LabelNodePool]
	return ours
}

// taken reports whether a machine or a Node object has the name.
func (s *Observed) taken(name string) bool {
	_, machine := s.machines[name]
	_, object := s.objects[name]
	return machine || object
}

// Observe joins machines, Node objects and pods. The Node objects must have been listed before the machines: then an
// object without a machine is an orphan, not a new one. Pods are listed last: a node that was cordoned before gets no
// others.
func (e *Executor) Observe(ctx context.Context, objects []corev1.Node, machines []nodes.Machine) (*Observed, error) {
	s := &Observed{
		machines: map[string]nodes.Machine{}, objects: map[string]*corev1.Node{}, pods: map[string][]corev1.Pod{},
	}
	for i := range objects {
		s.objects[objects[i].Name] = &objects[i]
	}
	for _, m := range machines {
		s.machines[m.Name] = m
		s.Views = append(s.Views, e.view(m, s.objects[m.Name]))
	}
	s.Views = append(s.Views, orphans(s)...)
	slices.SortFunc(s.Views, byName)
	e.Memory.await(joining(s.Views), e.Now)
	for i := range s.Views {
		v := &s.Views[i]
		v.Lost = e.Memory.awaited(v.Name, e.Now) > e.JoinTimeout
		if err := e.countPods(ctx, s, v); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// view combines a machine and its Node object, which may be nil.
func (e *Executor) view(m nodes.Machine, object *corev1.Node) View {
	v := View{Name: m.Name, Pool: m.Pool, KeyVersion: m.KeyVersion, Machine: true, Running: m.Running}
	if object == nil {
		return v
	}
	v.Registered = true
	v.Ready = m.Running && usable(object)
	_, v.Leaving = object.Annotations[AnnotationLeaving]
	v.Cordoned = object.Spec.Unschedulable
	v.Labelled = carries(object.Labels, wantedLabels(m, e.pool(m.Pool)))
	if m.Refreshing() && !v.Labelled {
		m.KeyVersion = m.Refresh.KeyVersion
		v.Labelled = carries(object.Labels, wantedLabels(m, e.pool(m.Pool)))
	}
	return v
}

// orphans returns our Node objects whose machine is gone.
func orphans(s *Observed) []View {
	var out []View
	for name, object := range s.objects {
		if _, machine := s.machines[name]; machine || !Ours(object) {
			continue
		}
		// A label that is missing or not a number counts as the oldest version, 0.
		version, _ := strconv.Atoi(object.Labels[v1alpha1.LabelKeyVersion])
		out = append(out, View{
			Name: name, Pool: object.Labels[v1alpha1.LabelNodePool], KeyVersion: version, Registered: true, Leaving: true,
		})
	}
	return out
}

// joining returns the machines that run and have no Node object yet.
func joining(views []View) []string {
	var names []string
	for _, v := range views {
		if v.Running && !v.Registered {
			names = append(names, v.Name)
		}
	}
	return names
}

// countPods lists the pods that must still leave a node that is leaving and cordoned.
func (e *Executor) countPods(ctx context.Context, s *Observed, v *View) error {
	if !v.Leaving || !v.Cordoned || !v.Running {
		return nil
	}
	pods, err := e.podsToEvict(ctx, v.Name, v.Ready)
	if err != nil {
		return err
	}
	s.pods[v.Name] = pods
	v.Pods = len(pods)
	return nil
}

// usable reports whether a Node object is ready and has none of the taints with which Kubernetes keeps pods away from a
// node that is not.
func usable(object *corev1.Node) bool {
	held := slices.ContainsFunc(object.Spec.Taints, func(t corev1.Taint) bool {
		switch t.Key {
		case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeNetworkUnavailable:
			return true
		}
		return false
	})
	return !held && nodes.ReadyCondition(object).Status == corev1.ConditionTrue
}

// wantedLabels returns the labels that the Node object of a machine should have.
func wantedLabels(m nodes.Machine, pool v1alpha1.NodePool) map[string]string {
	labels := maps.Clone(pool.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelNodePool] = m.Pool
	labels[v1alpha1.LabelKeyVersion] = fmt.Sprint(m.KeyVersion)
	return labels
}

func carries(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}
