package nodes

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// sight is one look at a cluster.
type sight struct {
	views    []view
	machines map[string]Machine
	nodes    map[string]*corev1.Node
	// pods are those that are still to leave a node, by node. Only nodes that are leaving and cordoned have an entry.
	pods map[string][]corev1.Pod
}

// taken says whether a machine or a Node object has the name.
func (s *sight) taken(name string) bool {
	_, machine := s.machines[name]
	_, node := s.nodes[name]
	return machine || node
}

// view returns what is known of a machine or Node object.
func (s *sight) view(name string) view {
	for _, v := range s.views {
		if v.Name == name {
			return v
		}
	}
	return view{}
}

// look joins machines, Node objects and pods, read in an order that matters: a Node object that was there before
// the machines were listed and has no machine is an orphan, not a newcomer; and pods that are listed after
// their node was seen cordoned are all that it will ever have.
func (c *cluster) look(ctx context.Context) (*sight, error) {
	s := &sight{machines: map[string]Machine{}, nodes: map[string]*corev1.Node{}, pods: map[string][]corev1.Pod{}}
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the nodes of cluster %s: %w", c.Name, err)
	}
	for i := range list.Items {
		s.nodes[list.Items[i].Name] = &list.Items[i]
	}
	machines, err := c.machines.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the machines of cluster %s: %w", c.Name, err)
	}
	for _, m := range machines {
		s.machines[m.Name] = m
		s.views = append(s.views, c.view(m, s.nodes[m.Name]))
	}
	s.views = append(s.views, orphans(s)...)
	c.memory.await(s.views, c.now)
	for i := range s.views {
		v := &s.views[i]
		v.Lost = c.memory.awaited(v.Name, c.now) > c.joinTimeout
		if err := c.countPods(ctx, s, v); err != nil {
			return nil, err
		}
		if err := c.lookAtTokens(ctx, v); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// view is a machine and its Node object, which may be nil.
func (c *cluster) view(m Machine, node *corev1.Node) view {
	v := view{Name: m.Name, Pool: m.Pool, KeyVersion: m.KeyVersion, Machine: true, Running: m.Running}
	if c.Spec.KSASigningKey.NodeRefresh.KeepsNodes() {
		v.Refresh = m.Refresh
	}
	if node == nil {
		return v
	}
	v.Registered = true
	v.Ready = m.Running && usable(node)
	v.Heard = heard(node, v.Refresh.Kubelet)
	_, v.Leaving = node.Annotations[AnnotationLeaving]
	v.Cordoned = node.Spec.Unschedulable
	v.Labelled = carries(node.Labels, wantedLabels(m, c.pool(m.Pool)))
	if v.refreshing() && !v.Labelled {
		m.KeyVersion = m.Refresh.KeyVersion
		v.Labelled = carries(node.Labels, wantedLabels(m, c.pool(m.Pool)))
	}
	return v
}

// orphans are the Node objects of ours whose machine is gone.
func orphans(s *sight) []view {
	var out []view
	for name, node := range s.nodes {
		pool, ours := node.Labels[v1alpha1.LabelNodePool]
		if _, machine := s.machines[name]; machine || !ours {
			continue
		}
		// A label that is missing or no number is the oldest version there is: 0.
		version, _ := strconv.Atoi(node.Labels[v1alpha1.LabelKeyVersion])
		out = append(out, view{Name: name, Pool: pool, KeyVersion: version, Registered: true, Leaving: true})
	}
	return out
}

// countPods looks up the pods that are still to leave a node that is leaving and cordoned.
func (c *cluster) countPods(ctx context.Context, s *sight, v *view) error {
	if !v.Leaving || !v.Cordoned || !v.Running {
		return nil
	}
	pods, err := c.podsToEvict(ctx, v.Name, v.Ready)
	if err != nil {
		return err
	}
	s.pods[v.Name] = pods
	v.Pods = len(pods)
	return nil
}

// usable says whether a Node object is ready and none of the taints is left by which Kubernetes keeps pods
// away from a node that is not.
func usable(node *corev1.Node) bool {
	held := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		switch t.Key {
		case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeNetworkUnavailable:
			return true
		}
		return false
	})
	return !held && readyCondition(node).Status == corev1.ConditionTrue
}

// heard says that a Node object was brought up to date by a kubelet that was started then.
func heard(node *corev1.Node, started time.Time) bool {
	// Times in conditions are whole seconds, cut off.
	return !started.IsZero() && !readyCondition(node).LastHeartbeatTime.Time.Before(started.Truncate(time.Second))
}

// lookAtTokens looks at what the pods on a node have whose tokens are being replaced.
func (c *cluster) lookAtTokens(ctx context.Context, v *view) error {
	p := policyOf(c.UserCluster, v.Refresh.KeyVersion)
	if !v.refreshing() || !v.Running || v.Leaving {
		return nil
	}
	keyID := c.keyID(v.Refresh.KeyVersion)
	if keyID == "" {
		v.Tokens.trouble = fmt.Sprintf("the cluster's status does not have the key ID of version %d yet", v.Refresh.KeyVersion)
		return nil
	}
	every := c.tokensEvery
	if p.refresh == v1alpha1.NodeRefreshWait {
		every *= 10 // it takes an hour, or a day
	}
	pods, err := c.memory.tokensOf(v.Name, v.Refresh, c.now, every, func() ([]podTokens, error) { return c.podTokens(ctx, v) })
	if err != nil {
		return err
	}
	if pods != nil || v.Tokens.trouble == "" {
		v.Tokens = judge(p.refresh, v.Refresh, keyID, pods, c.now)
	}
	return nil
}

// podTokens reads the tokens of all pods on a node that have not ended. The pods are listed first: one that comes
// later gets a new token.
func (c *cluster) podTokens(ctx context.Context, v *view) ([]podTokens, error) {
	list, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{
		FieldSelector: "spec.nodeName=" + v.Name + ",status.phase!=Succeeded,status.phase!=Failed",
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of node %s: %w", v.Name, err)
	}
	var files []TokenFile
	pods := []podTokens{}
	for i := range list.Items {
		pods = append(pods, podTokens{pod: &list.Items[i]})
		for _, m := range tokenMounts(&list.Items[i]) {
			files = append(files, m.TokenFile)
		}
	}
	tokens, err := c.machines.Tokens(ctx, v.Name, files)
	if err == nil && len(tokens) != len(files) {
		err = fmt.Errorf("%d files read, of %d", len(tokens), len(files))
	}
	if err != nil {
		// One node that cannot be looked at keeps nobody from seeing the others.
		v.Tokens.trouble = err.Error()
		return nil, nil //nolint:nilerr // it is told
	}
	for i := range pods {
		n := len(tokenMounts(pods[i].pod))
		pods[i].tokens, tokens = tokens[:n:n], tokens[n:]
	}
	return pods, nil
}

// keyID is the kid of a key version; empty when it is not known.
func (c *cluster) keyID(version int) string {
	for _, k := range c.Status.KSASigningKey.Keys {
		if int(k.Version) == version {
			return k.KeyID
		}
	}
	return ""
}

// readyCondition returns the condition Ready, with a status of "" when there is none.
func readyCondition(node *corev1.Node) corev1.NodeCondition {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func carries(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}
