package evict

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/tokens"
)

// TestWaitForKubelets leaves tokens to the kubelets of nodes that nobody reads.
func TestWaitForKubelets(t *testing.T) {
	const reload = 5 * time.Minute
	due := noon.Add(clockSlack + tokens.Renewal(tokenPod(noon, nil)) + reload)
	node := func(ready corev1.ConditionStatus, since time.Time) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
				{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(since)},
			},
		}}
	}
	healthy := node(corev1.ConditionTrue, noon.Add(-time.Hour))
	back := due.Add(-reload - time.Second) // it was away when its tokens were due
	subPath := func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "token" }
	startedAgain := func(p *corev1.Pod) {
		subPath(p)
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: p.Spec.Containers[0].Name, State: corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(noon.Add(time.Minute))},
		}}}
	}
	for _, test := range []struct {
		name    string
		node    *corev1.Node
		pod     *corev1.Pod
		at      time.Time
		words   string
		blocked bool
	}{
		{"before the time", healthy, tokenPod(noon, nil), due.Add(-time.Second),
			"the kubelets to replace the tokens of 1 pods, and these to read the new ones, which is certain at " +
				due.Format(time.RFC3339), false},
		{"at the time", healthy, tokenPod(noon, nil), due, "", false},
		{"a pod that is newer", healthy, tokenPod(noon.Add(time.Minute), nil), noon.Add(time.Minute), "", false},
		{"a node that is away", node(corev1.ConditionUnknown, noon), tokenPod(noon, nil), due.Add(time.Hour),
			"node n to be ready, whose kubelet has to replace the tokens of 1 pods", true},
		{"a node that is gone", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, tokenPod(noon, nil),
			due.Add(time.Hour), "node n to be ready, whose kubelet has to replace the tokens of 1 pods", true},
		{"a node that is back", node(corev1.ConditionTrue, back), tokenPod(noon, nil), due,
			"the kubelets to replace the tokens of 1 pods, and these to read the new ones, which is certain at " +
				back.Add(tokens.RenewalSlack+reload).Format(time.RFC3339), false},
		{"a node that was back in time", node(corev1.ConditionTrue, back), tokenPod(noon, nil),
			back.Add(tokens.RenewalSlack + reload), "", false},
		{"a token by subPath", healthy, tokenPod(noon, subPath), due.Add(time.Hour),
			"pod ns/p on node n to be deleted, which mounts a token of volume token by subPath and never sees a new one", true},
		{"a token by subPath, read again", healthy, tokenPod(noon, startedAgain), due, "", false},
		{"a pod that ends", healthy, tokenPod(noon, func(p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: due}
		}), due, "pod ns/p on node n, which has an old token, to end", false},
	} {
		e := &Executor{
			How: v1alpha1.NodeRefreshWait, Unread: true, Reload: reload, Keys: nodes.Keys{Next: 3, Old: 2}, Memory: &Memory{},
			Now: test.at,
		}
		o := &Observed{judged: []*corev1.Node{test.node}, since: noon}
		o.list = listed(judge{surroundings: surroundings{since: noon}, kubelets: newKubelets(o.judged, reload, test.at)}, test.pod)
		words, blocked := nodes.Join(e.Reasons(o))
		if words != test.words || blocked != test.blocked {
			t.Errorf("%s: waits for %q, %t", test.name, words, blocked)
		}
		want := 3
		if test.words != "" {
			want = 2
		}
		if got := e.KeyVersion(o, test.node.Name); got != want {
			t.Errorf("%s: key version %d, want %d", test.name, got, want)
		}
		if e.waits() != (e.How == v1alpha1.NodeRefreshWait) || e.evicts() {
			t.Errorf("%s: pods are evicted", test.name)
		}
	}
}
