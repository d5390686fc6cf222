package rollout

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// evicting returns a cluster whose pods are evicted: without machines, as an adopted one, and with a node.
func evicting(t *testing.T) *bench {
	b := newBench(t, 0, 1)
	b.cleanNote()
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshEvict
	b.cluster.Pools, b.cluster.Machines, b.cluster.Refresher = nil, nil, nil
	b.every = 0
	must(t, appear(b.ctx, "theirs", nil))
	return b
}

// controlled makes a pod that belongs to a controller, as far as the API shows.
func controlled(b *bench, name string) func(*corev1.Pod) {
	b.Helper()
	labels := map[string]string{"set": name}
	set, err := client.AppsV1().ReplicaSets(b.ns).Create(b.ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.ReplicaSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "localhost/none"}}},
			},
		},
	}, metav1.CreateOptions{})
	must(b.T, err)
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet")),
		}
	}
}

func both(changes ...func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, change := range changes {
			change(p)
		}
	}
}

// copiesSecret has the container copy a Secret into its environment.
func copiesSecret(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}},
		}
	}
}

func (b *bench) secret(name string, kind corev1.SecretType) {
	b.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind}
	if kind == corev1.SecretTypeServiceAccountToken {
		s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "default"}
	}
	_, err := client.CoreV1().Secrets(b.ns).Create(b.ctx, s, metav1.CreateOptions{})
	must(b.T, err)
}

// TestEvict evicts the pods of a cluster that hold a token, by its API alone. What cannot go is named, and keeps no
// other.
func TestEvict(t *testing.T) {
	b := evicting(t)
	b.secret("legacy", corev1.SecretTypeServiceAccountToken)
	b.secret("settings", corev1.SecretTypeOpaque)
	web := controlled(b, "web")
	b.pod("web-1", "theirs", both(withToken, web))
	b.pod("web-2", "theirs", both(withToken, web))
	b.pod("copies", "theirs", both(copiesSecret("legacy"), controlled(b, "copies")))
	b.pod("settings", "theirs", both(copiesSecret("settings"), controlled(b, "settings")))
	b.pod("tokenless", "theirs", controlled(b, "tokenless"))
	b.pod("guarded", "theirs", both(withToken, controlled(b, "guarded")))
	b.allow(b.budget("guard", "guarded"), 0, 1, 1)
	b.pod("bare", "theirs", withToken)

	if st := b.observe(1); st.Oldest != 1 || st.Waiting != "" || !st.Converged {
		t.Fatalf("before the rotation: %+v", st)
	}
	st := b.until("what cannot go to be named", 2, func(st nodes.State) bool {
		return waitingFor("/bare on node theirs to be deleted", "/guarded on node theirs to be evicted",
			b.ns+"/guard allows no disruption")(st) &&
			!b.podExists("web-1") && !b.podExists("copies")
	})
	if !st.Blocked || st.Oldest != 1 {
		t.Errorf("while pods cannot go: %+v", st)
	}
	for _, name := range []string{"bare", "guarded", "settings", "tokenless"} {
		if !b.podExists(name) {
			t.Errorf("pod %s was evicted", name)
		}
	}
	_, err := client.CoreV1().Pods(b.ns).Patch(b.ctx, "bare", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"keyturn.dev/evict":"true"}}}`), metav1.PatchOptions{})
	must(t, err)
	must(t, client.PolicyV1().PodDisruptionBudgets(b.ns).Delete(b.ctx, "guard", metav1.DeleteOptions{}))
	st = b.until("the end", 2, func(st nodes.State) bool { return st.Oldest == 2 })
	if st.Waiting != "" || st.Blocked || !st.Converged || !st.HoldersKnown || len(st.Holders) > 0 {
		t.Errorf("at the end: %+v", st)
	}
	if b.podExists("web-2") || !b.podExists("settings") || !b.podExists("tokenless") {
		t.Error("not the pods with tokens were evicted")
	}
	if gone, err := b.open().Delete(b.ctx); !gone || err != nil {
		t.Errorf("deleting: %t, %v", gone, err)
	}
}

// TestEvictSparesOthersOfAController has a pod of a controller wait for the replacement of another one, and a pod
// that was made since not be touched.
func TestEvictSparesOthersOfAController(t *testing.T) {
	b := evicting(t)
	web := controlled(b, "web")
	b.pod("web-1", "theirs", both(withToken, web))
	b.pod("web-2", "theirs", both(withToken, web))
	b.until("the first pod to go", 2, func(nodes.State) bool { return !b.podExists("web-1") })
	// Its replacement is not ready.
	next := b.pod("web-3", "theirs", both(withToken, web))
	next.Status.Conditions[0].Status = corev1.ConditionFalse
	_, err := client.CoreV1().Pods(b.ns).UpdateStatus(b.ctx, next, metav1.UpdateOptions{})
	must(t, err)
	st := b.until("the replacement to be named", 2,
		waitingFor("/web-3 on node theirs to be ready before more pods like it are evicted"))
	if st.Blocked {
		t.Errorf("blocked at once: %q", st.Waiting)
	}
	for range 5 {
		must(t, b.open().Converge(b.ctx, keysOf(2)))
	}
	if !b.podExists("web-2") {
		t.Fatal("a second pod of the controller was evicted")
	}
	must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "web-3", metav1.DeleteOptions{}))
	b.until("the end", 2, func(st nodes.State) bool { return st.Oldest == 2 && !b.podExists("web-2") })
	b.pod("web-4", "theirs", both(withToken, web))
	if st := b.observe(2); st.Oldest != 2 || st.Waiting != "" {
		t.Errorf("a pod that was made since: %+v", st)
	}
}

// TestEvictKeepsMachines evicts pods from machines, which then count as of the new key version in any mode.
func TestEvictKeepsMachines(t *testing.T) {
	b := newBench(t, 1, 1)
	b.cleanNote()
	b.cluster.NodeRefresh, b.every = v1alpha1.NodeRefreshEvict, 0
	node := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.pod("web", node, both(withToken, controlled(b, "web")))
	b.until("the same node", 2,
		func(st nodes.State) bool { return all(1, 2)(st) && st.Nodes[0].Name == node && !b.podExists("web") })
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshReplace
	if st := b.observe(2); st.Oldest != 2 {
		t.Errorf("after a change of the mode: %+v", st)
	}
}

// TestEvictAfterInPlace evicts pods from a machine whose tokens an earlier rotation replaced.
func TestEvictAfterInPlace(t *testing.T) {
	b := newBench(t, 1, 1)
	b.cleanNote()
	b.cluster.NodeRefresh, b.every = v1alpha1.NodeRefreshInPlace, 0
	node := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.until("it to be refreshed", 2, all(1, 2))
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshEvict
	b.pod("web", node, both(withToken, controlled(b, "web")))
	b.until("its pod to be evicted", 3, func(st nodes.State) bool { return all(1, 3)(st) && !b.podExists("web") })
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshInPlace
	if st := b.observe(3); !all(1, 3)(st) {
		t.Errorf("after a change of the mode: %+v", st)
	}
}

// TestReplaceAfterInPlace replaces the nodes of a cluster in which pods with old tokens were named: none is named then.
func TestReplaceAfterInPlace(t *testing.T) {
	b := newBench(t, 1, 1)
	b.cleanNote()
	b.cluster.NodeRefresh, b.every = v1alpha1.NodeRefreshInPlace, 0
	node := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.secret("legacy", corev1.SecretTypeServiceAccountToken)
	b.pod("copies", node, copiesSecret("legacy"))
	b.until("one node of version 2", 2, all(1, 2))
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshReplace
	keys := keysOf(3)
	keys.Named = true
	must(t, b.open().Converge(b.ctx, keys))
	must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "copies", metav1.DeleteOptions{}))
	st, err := b.open().Observe(b.ctx, nodes.Keys{Next: 3, KeyID: keys.KeyID, Named: true})
	must(t, err)
	if !st.HoldersKnown || len(st.Holders) > 0 {
		t.Errorf("pods with old tokens are %+v, known: %t", st.Holders, st.HoldersKnown)
	}
}

// TestReplaceHurries evicts pods that API servers refuse until they start again, before any node is replaced: those
// that a controller makes again, on nodes that Keyturn made.
func TestReplaceHurries(t *testing.T) {
	b := newBench(t, 1, 1)
	b.cleanNote()
	b.cluster.NodeRefresh, b.every = v1alpha1.NodeRefreshReplace, 0
	node := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	must(t, appear(b.ctx, "theirs", nil))
	b.secret("legacy", corev1.SecretTypeServiceAccountToken)
	b.secret("settings", corev1.SecretTypeOpaque)
	copied := copiesSecret("legacy")
	b.pod("copies", node, both(copied, controlled(b, "copies")))
	stay := map[string]func(*corev1.Pod){
		"settings": both(copiesSecret("settings"), controlled(b, "settings")), "web": both(withToken, controlled(b, "web")),
		"bare": copied,
	}
	for name, change := range stay {
		b.pod(name, node, change)
	}
	b.pod("other", "theirs", both(copied, controlled(b, "other")))
	b.machines.Join = nil // so that no node is drained
	b.until("the pod with a dead token to be evicted", 2, func(nodes.State) bool { return !b.podExists("copies") })
	for range 3 {
		must(t, b.open().Converge(b.ctx, keysOf(2)))
	}
	for _, name := range append(slices.Collect(maps.Keys(stay)), "other") {
		if !b.podExists(name) {
			t.Errorf("pod %s was evicted", name)
		}
	}
}

// TestHolders names pods that keep an old token though the rotation may end.
func TestHolders(t *testing.T) {
	b := newBench(t, 1, 1)
	b.cleanNote()
	b.cluster.NodeRefresh, b.every = v1alpha1.NodeRefreshInPlace, 0
	node := b.until("one node", 1, all(1, 1)).Nodes[0].Name
	b.secret("legacy", corev1.SecretTypeServiceAccountToken)
	b.pod("copies", node, copiesSecret("legacy"))
	b.until("one node of version 2", 2, all(1, 2))
	named := func(keys nodes.Keys) []nodes.Holder {
		st, err := b.open().Observe(b.ctx, keys)
		must(t, err)
		if !st.HoldersKnown {
			t.Errorf("nobody knows: %+v", st)
		}
		return st.Holders
	}
	got := named(keysOf(2))
	if len(got) != 1 || got[0].Pod != "copies" || len(got[0].Tokens) != 1 || got[0].Tokens[0].Secret != "legacy" {
		t.Fatalf("in the rotation: %+v", got)
	}
	over := nodes.Keys{Next: 2, KeyID: "new", Named: true}
	if got := named(over); len(got) != 1 {
		t.Errorf("after the rotation: %+v", got)
	}
	must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "copies", metav1.DeleteOptions{}))
	if got := named(over); len(got) != 0 {
		t.Errorf("after it was restarted: %+v", got)
	}
	over.Named = false
	if st, err := b.open().Observe(b.ctx, over); err != nil || st.HoldersKnown {
		t.Errorf("when nobody is named: %+v, %v", st, err)
	}
}

// TestWithoutMachines needs Evict or Wait.
func TestWithoutMachines(t *testing.T) {
	b := evicting(t)
	b.cluster.NodeRefresh = v1alpha1.NodeRefreshInPlace
	if _, err := b.open().Observe(context.Background(), keysOf(1)); err == nil ||
		!strings.Contains(err.Error(), "use Evict or Wait") {
		t.Errorf("got %v", err)
	}
}

// TestWaitWithoutMachines leaves pods alone until their kubelets have replaced all tokens, and applications have read
// them.
func TestWaitWithoutMachines(t *testing.T) {
	b := evicting(t)
	b.cluster.NodeRefresh, b.cluster.TokenReload = v1alpha1.NodeRefreshWait, 5*time.Minute
	b.pod("web", "theirs", both(withToken, controlled(b, "web")))
	b.pod("bare", "theirs", withToken)
	b.pod("tokenless", "theirs", nil)
	st := b.until("kubelets to be waited for", 2, waitingFor("the kubelets to replace the tokens of 2 pods"))
	if st.Blocked || st.Oldest != 1 {
		t.Errorf("before the time: %+v", st)
	}
	b.ahead = 24 * time.Hour
	st = b.observe(2)
	if st.Oldest != 2 || st.Waiting != "" || !st.Converged {
		t.Errorf("after it: %+v", st)
	}
	if !b.podExists("web") || !b.podExists("bare") {
		t.Error("pods were evicted")
	}
}

// TestNoteWaitsForTheProof begins nothing while some API server did not prove its key.
func TestNoteWaitsForTheProof(t *testing.T) {
	b := evicting(t)
	b.pod("web", "theirs", both(withToken, controlled(b, "web")))
	keys := keysOf(2)
	keys.ProvenAt = time.Time{}
	for range 3 {
		must(t, b.open().Converge(b.ctx, keys))
	}
	if st := b.observe(2); st.Oldest != 1 || !b.podExists("web") {
		t.Errorf("without the proof: %+v", st)
	}
}

// TestEvictBegins begins once each pod that is made is seen to be younger than the note, regardless of the clocks of
// API servers.
func TestEvictBegins(t *testing.T) {
	b := evicting(t)
	b.pod("web-1", "theirs", both(withToken, controlled(b, "web")))
	proven := time.Now().Truncate(time.Second)
	converge := func(after time.Duration) nodes.State {
		t.Helper()
		keys := keysOf(2)
		keys.ProvenAt = proven.Add(after)
		for range 2 { // the first one may only make the note
			must(t, b.open().Converge(b.ctx, keys))
		}
		st, err := b.open().Observe(b.ctx, keys)
		must(t, err)
		return st
	}
	converge(0)
	if st := converge(5 * time.Second); !waitingFor("1 pods to be evicted, which hold")(st) || !b.podExists("web-1") {
		t.Errorf("five seconds later: %+v", st)
	}
	if st := converge(6 * time.Second); b.podExists("web-1") {
		t.Errorf("after that: %+v", st)
	}
}

// TestEvictInsteadOfWait has a rotation go on by evictions that has waited for kubelets, in clusters with and without
// machines of ours.
func TestEvictInsteadOfWait(t *testing.T) {
	for name, start := range map[string]func(*testing.T) (*bench, string){
		"adopted": func(t *testing.T) (*bench, string) { return evicting(t), "theirs" },
		"ours": func(t *testing.T) (*bench, string) {
			b := newBench(t, 1, 1)
			b.cleanNote()
			b.every = 0
			return b, b.until("one node", 1, all(1, 1)).Nodes[0].Name
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, node := start(t)
			b.cluster.NodeRefresh, b.cluster.TokenReload = v1alpha1.NodeRefreshWait, 5*time.Minute
			b.pod("web", node, both(withToken, controlled(b, "web")))
			st := b.until("a kubelet to be waited for", 2, func(st nodes.State) bool {
				return st.Oldest == 1 && st.Waiting != "" && !st.Blocked
			})
			if !b.podExists("web") {
				t.Fatalf("a pod was evicted: %+v", st)
			}
			b.cluster.NodeRefresh = v1alpha1.NodeRefreshEvict
			b.until("the pods to be evicted", 2, func(st nodes.State) bool {
				return st.Oldest == 2 && st.Waiting == "" && !b.podExists("web")
			})
			b.cluster.NodeRefresh = v1alpha1.NodeRefreshWait
			if st := b.observe(2); st.Oldest != 2 || st.Waiting != "" {
				t.Errorf("after a change back: %+v", st)
			}
		})
	}
}
