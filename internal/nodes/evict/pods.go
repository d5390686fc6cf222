package evict

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// clockSlack is how much the clocks of API servers may differ.
const clockSlack = 5 * time.Second

// predates reports whether something may have happened before a time, by the clock of an API server.
func predates(at metav1.Time, since time.Time) bool { return !at.After(since.Add(clockSlack)) }

// judge sorts pods by their tokens.
type judge struct {
	surroundings
	// evicts means that every old pod should go, even if something would replace its tokens. hurries means that those
	// with a dead token should go before their nodes do.
	evicts, hurries bool
	// emptied are the nodes whose pods should go, while other nodes are replaced.
	emptied map[string]bool
	// young are the nodes from after since, on which no old token can be.
	young map[string]bool
	// off are the nodes that are not ready.
	off map[string]bool
	// kubelets replace the tokens; nil if tokens are not left to them.
	kubelets *kubelets
}

// surroundings are what the API shows about tokens besides the pods. Anything later has new tokens only.
type surroundings struct {
	keyID string
	// since is the time after which no pod gets an old token.
	since   time.Time
	cluster podtokens.Cluster
	// legacy are the Secrets that hold legacy tokens.
	legacy map[types.NamespacedName]bool
}

// tokens returns the tokens that a pod holds or will hold.
func (s surroundings) tokens(pod *corev1.Pod) []podtokens.Token {
	return slices.DeleteFunc(podtokens.Of(pod, s.cluster), func(t podtokens.Token) bool {
		return t.Kind == podtokens.Legacy && !s.legacy[types.NamespacedName{Namespace: pod.Namespace, Name: t.Secret}]
	})
}

// isOld reports whether a pod may hold an old token that only its end removes. Its files are not read.
func (j judge) isOld(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" || j.isNew(pod) {
		return false
	}
	return slices.ContainsFunc(j.tokens(pod), func(t podtokens.Token) bool {
		return j.evicts || j.emptied[pod.Spec.NodeName] || t.Kind != podtokens.Legacy && t.Way == podtokens.File
	})
}

// kept returns the tokens of a pod that may be old and that nothing replaces while it runs: copies of legacy tokens,
// and tokens that the driver of a volume keeps.
func (j judge) kept(pod *corev1.Pod) []podtokens.Token {
	if pod.Spec.NodeName == "" || j.isNew(pod) {
		return nil
	}
	return slices.DeleteFunc(j.tokens(pod), func(t podtokens.Token) bool {
		switch {
		case t.Refresh == podtokens.ByKubelet || t.Refresh == podtokens.Never:
			return true
		case t.Refresh == podtokens.ByContainer && !predates(startOf(pod, t.Container), j.since):
			return true
		}
		return t.Kind != podtokens.Legacy && t.Way != podtokens.Driver
	})
}

// isNew reports whether a pod can have no old token: it was created after since, or it waited until then for a node
// that was to come. A node that registers again is young too, but its pods were bound to it before.
func (j judge) isNew(pod *corev1.Pod) bool {
	return !predates(pod.CreationTimestamp, j.since) ||
		j.young[pod.Spec.NodeName] && !predates(boundAt(pod), j.since)
}

// boundAt returns when a pod was bound to its node, as the API server notes it; zero if unknown.
func boundAt(pod *corev1.Pod) metav1.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime
		}
	}
	return metav1.Time{}
}

// young returns the nodes that were created after since.
func young(all []*corev1.Node, since time.Time) map[string]bool {
	names := map[string]bool{}
	for _, n := range all {
		names[n.Name] = !predates(n.CreationTimestamp, since)
	}
	return names
}

// off returns the nodes that are not ready.
func off(all []*corev1.Node) map[string]bool {
	names := map[string]bool{}
	for _, n := range all {
		names[n.Name] = nodes.ReadyCondition(n).Status != corev1.ConditionTrue
	}
	return names
}

// startOf returns when a container last started, by the clock of its node; zero if unknown.
func startOf(pod *corev1.Pod, container string) metav1.Time {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.Name == container && s.State.Running != nil {
			return s.State.Running.StartedAt
		}
	}
	return metav1.Time{}
}

// podOf returns what Plan needs to know about a pod.
func podOf(pod *corev1.Pod) Pod {
	p := Pod{
		Object: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Labels: pod.Labels, Finalizers: pod.Finalizers,
				CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
				DeletionGracePeriodSeconds: pod.DeletionGracePeriodSeconds,
			},
			Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName},
		},
		Released: pod.Annotations[v1alpha1.AnnotationEvict] == "true",
		System:   isSystem(pod), Ready: isReady(pod),
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		p.Owner = owner.UID
	}
	return p
}

// isSystem reports whether the cluster itself may depend on a pod: its network, its DNS, its storage.
func isSystem(pod *corev1.Pod) bool {
	return pod.Namespace == metav1.NamespaceSystem ||
		pod.Spec.PriorityClassName == "system-cluster-critical" || pod.Spec.PriorityClassName == "system-node-critical"
}

// isLeft reports whether the API goes on showing a pod while its node is off, for as long as that lasts: nobody but the
// kubelet ends a static pod, or one that is being deleted.
func isLeft(pod *corev1.Pod) bool {
	_, static := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return static || pod.DeletionTimestamp != nil
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// list is the result of listing all pods.
type list struct {
	Pods
	// on are the old pods by node, and dead those with a dead token.
	on   map[string][]Pod
	dead []Pod
	// kept are the pods that keep an old token.
	kept []nodes.Holder
}

// add adds a pod that has not ended.
func (l *list) add(j judge, pod *corev1.Pod) {
	p := podOf(pod)
	tokens := j.kept(pod)
	p.Dead = slices.ContainsFunc(tokens, func(t podtokens.Token) bool { return t.Kind == podtokens.Legacy })
	old := j.isOld(pod)
	if old && j.kubelets != nil {
		p.NewBy, p.Pinned = j.kubelets.newBy(pod, j.since), pinned(pod, j.tokens(pod), j.since)
		old = p.Pinned != "" || p.NewBy.IsZero() || j.kubelets.now.Before(p.NewBy)
	}
	if old {
		l.Old = append(l.Old, p)
		l.on[pod.Spec.NodeName] = append(l.on[pod.Spec.NodeName], p)
	}
	if p.Dead {
		l.dead = append(l.dead, p)
	}
	if len(tokens) > 0 {
		l.kept = append(l.kept, nodes.Holder{Namespace: pod.Namespace, Pod: pod.Name, Tokens: tokens})
	}
	if p.Owner == "" || !j.evicts && !j.hurries {
		return
	}
	owner := l.Owners[p.Owner]
	owner.Pods++
	owner.count(p, old)
	l.Owners[p.Owner] = owner
	// System pods that were not ready before must not keep the others from being evicted.
	waitedFor := p.ending()
	if !old {
		waitedFor = !(j.off[pod.Spec.NodeName] && isLeft(pod))
	}
	if p.System && waitedFor {
		l.System.count(p, old)
	}
}

func (o *Owner) count(p Pod, old bool) {
	if p.Ready && !p.ending() {
		return
	}
	o.Away++
	if !old && !p.ending() && (o.Unready == nil || o.Unready.CreationTimestamp.Before(&p.Object.CreationTimestamp)) {
		o.Unready = p.Object
	}
}
