package evict

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/eviction"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// driverPod is a pod whose token for the API server is with the driver of its volume.
func driverPod(driver string, secret *corev1.LocalObjectReference) *corev1.Pod {
	return tokenPod(noon, func(p *corev1.Pod) {
		p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{
			CSI: &corev1.CSIVolumeSource{Driver: driver, NodePublishSecretRef: secret},
		}
	})
}

// TestJudgeOfOthers has tokens that no kubelet keeps in a file, and containers that are not the one in question.
func TestJudgeOfOthers(t *testing.T) {
	around := surroundings{
		since: noon, legacy: map[types.NamespacedName]bool{{Namespace: "ns", Name: "legacy"}: true},
		cluster: podtokens.Cluster{Drivers: map[string]podtokens.CSIDriver{
			"once":  {TokenRequests: []podtokens.Request{{}}},
			"often": {TokenRequests: []podtokens.Request{{}}, Republishes: true},
		}},
	}
	later := metav1.NewTime(noon.Add(clockSlack + time.Second))
	running := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: later}},
		}
	}
	copied := func(change func(*corev1.Pod)) *corev1.Pod {
		p := tokenPod(noon, copies("legacy"))
		change(p)
		return p
	}
	for _, test := range []struct {
		name      string
		pod       *corev1.Pod
		old, kept bool
	}{
		{"a driver that gets one token", driverPod("once", nil), false, true},
		{"a driver that gets new ones", driverPod("often", nil), false, false},
		{"a driver that gets a legacy token", driverPod("other", &corev1.LocalObjectReference{Name: "legacy"}), false, true},
		{"a copy of a bound token", tokenPod(noon, func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts[0].SubPath = "token"
		}), true, false},
		{"a copy, not scheduled", copied(func(p *corev1.Pod) { p.Spec.NodeName = "" }), false, false},
		{"a copy in a pod that ends", copied(func(p *corev1.Pod) { p.DeletionTimestamp = &later }), false, false},
		{"another container started since", copied(func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{running("other")}
		}), false, true},
		{"not running yet", copied(func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c"}}
		}), false, true},
		{"the second of two started since", copied(func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "other"}, running("c")}
		}), false, false},
	} {
		j := judge{surroundings: around}
		if old, kept := j.isOld(test.pod), len(j.kept(test.pod)) > 0; old != test.old || kept != test.kept {
			t.Errorf("%s: old %t, kept %t", test.name, old, kept)
		}
	}
}

// TestYoungNodes has pods that were created when new tokens had only just begun, and that waited for a node.
func TestYoungNodes(t *testing.T) {
	bound := func(created, at time.Time, status corev1.ConditionStatus) *corev1.Pod {
		return tokenPod(created, func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon.Add(time.Hour))},
				{Type: corev1.PodScheduled, Status: status, LastTransitionTime: metav1.NewTime(at)},
			}
		})
	}
	soon, later := noon.Add(clockSlack), noon.Add(clockSlack+time.Second)
	for _, test := range []struct {
		name string
		node time.Time
		pod  *corev1.Pod
		old  bool
	}{
		{"bound later to a node that came later", later, bound(soon, later, corev1.ConditionTrue), false},
		{"created before, and bound later to a node that came later", later,
			bound(noon.Add(-time.Hour), later, corev1.ConditionTrue), false},
		{"bound later to a node of before", soon, bound(soon, later, corev1.ConditionTrue), true},
		{"bound before to a node that registered again", later, bound(soon, soon, corev1.ConditionTrue), true},
		{"not known when it was bound", later, tokenPod(soon, func(*corev1.Pod) {}), true},
		{"not bound", later, bound(soon, later, corev1.ConditionFalse), true},
		{"created later", soon, bound(later, later, corev1.ConditionTrue), false},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: test.pod.Spec.NodeName, CreationTimestamp: metav1.NewTime(test.node),
		}}
		j := judge{surroundings: surroundings{since: noon}, evicts: true, young: young([]*corev1.Node{node}, noon)}
		if got := j.isOld(test.pod); got != test.old {
			t.Errorf("%s: it is old: %t, want %t", test.name, got, test.old)
		}
	}
}

// TestPodOf wants what a plan and the words about a pod need.
func TestPodOf(t *testing.T) {
	yes, grace := true, int64(30)
	meta := metav1.ObjectMeta{
		Namespace: "ns", Name: "p", UID: "p-uid", Labels: map[string]string{"app": "p"}, Finalizers: []string{"hold.test/on"},
		CreationTimestamp: metav1.NewTime(noon), DeletionTimestamp: &metav1.Time{Time: noon},
		DeletionGracePeriodSeconds: &grace,
	}
	whole := corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "n", ServiceAccountName: "app"}}
	whole.OwnerReferences = []metav1.OwnerReference{{UID: "else"}, {UID: "owner", Controller: &yes}}
	want := Pod{Object: &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "n"}}, Owner: "owner"}
	if diff := cmp.Diff(want, podOf(&whole)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		want   Pod
	}{
		"of nobody": {func(*corev1.Pod) {}, Pod{}},
		"released": {
			func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationEvict: "true"} }, Pod{Released: true},
		},
		"not released":   {func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationEvict: "no"} }, Pod{}},
		"of kube-system": {func(p *corev1.Pod) { p.Namespace = "kube-system" }, Pod{System: true}},
		"needed by the cluster": {
			func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" }, Pod{System: true},
		},
		"needed by its node": {func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, Pod{System: true}},
		"not ready": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{
				{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse},
			}
		}, Pod{}},
		"ready": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}, Pod{Ready: true}},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
		test.change(pod)
		got := podOf(pod)
		got.Object = nil
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// owned is a pod of a controller that was made at a time, and holds a token.
func owned(name, owner string, made time.Time, change func(*corev1.Pod)) *corev1.Pod {
	yes := true
	return tokenPod(made, func(p *corev1.Pod) {
		p.Name, p.UID = name, types.UID(name)
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(owner), Controller: &yes}}
		if change != nil {
			change(p)
		}
	})
}

func ready(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func listed(j judge, pods ...*corev1.Pod) *list {
	l := &list{Pods: Pods{Owners: map[types.UID]Owner{}}, on: map[string][]Pod{}}
	for _, p := range pods {
		l.add(j, p)
	}
	return l
}

func TestListed(t *testing.T) {
	on := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "on"}}
	on.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	all := []*corev1.Node{on, {ObjectMeta: metav1.ObjectMeta{Name: "off"}}}
	evicts := judge{surroundings: surroundings{since: noon}, evicts: true, off: off(all)}
	later := noon.Add(time.Hour)
	onNode := func(node string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeName = node }
	}
	both := func(a, b func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { a(p); b(p) }
	}
	static := func(node string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			onNode(node)(p)
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "a"}
		}
	}
	ends := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: later} }
	system := func(change func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Namespace = "kube-system"; change(p) }
	}

	l := listed(evicts, owned("a", "web", noon, ready), owned("b", "web", later, ready),
		owned("c", "web", later, nil), owned("d", "web", later.Add(time.Hour), nil),
		owned("e", "web", later.Add(time.Minute), nil),
		owned("f", "web", later.Add(2*time.Hour), ends), owned("g", "web", noon, func(p *corev1.Pod) { ready(p); ends(p) }),
		tokenPod(noon, nil))
	if web := l.Owners["web"]; web.Pods != 7 || web.Away != 5 || web.Unready.Name != "d" || len(l.Owners) != 1 {
		t.Errorf("of web %+v, and of all %+v", web, l.Owners)
	}
	if l.System != (Owner{}) || len(l.Old) != 3 {
		t.Errorf("of the system %+v, %d old", l.System, len(l.Old))
	}
	if web := listed(evicts, owned("a", "web", noon, nil)).Owners["web"]; web.Away != 1 || web.Unready != nil {
		t.Errorf("with an old pod that was not ready before: %+v", web)
	}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		away int
	}{
		"not ready before":              {owned("p", "dns", noon, system(func(*corev1.Pod) {})), 0},
		"not ready since":               {owned("p", "dns", later, system(func(*corev1.Pod) {})), 1},
		"ready":                         {owned("p", "dns", later, system(ready)), 0},
		"static, of a node that is on":  {owned("p", "on", later, system(static("on"))), 1},
		"static, of a node that is off": {owned("p", "off", later, system(static("off"))), 0},
		"ending, of a node that is off": {owned("p", "off", later, system(both(onNode("off"), ends))), 0},
		"ending, of a node that is on":  {owned("p", "on", later, system(both(onNode("on"), ends))), 1},
		"old, of a node that is off":    {owned("p", "off", noon, system(both(onNode("off"), ends))), 1},
		"of a node that is off":         {owned("p", "dns", later, system(onNode("off"))), 1},
		"evicted and not ended":         {owned("p", "dns", noon, system(ends)), 1},
	} {
		if l := listed(evicts, test.pod); l.System.Away != test.away {
			t.Errorf("a system pod that is %s: %d are away", name, l.System.Away)
		}
	}

	copied := copies("legacy")
	l = listed(judge{hurries: true, surroundings: surroundings{
		since: noon, legacy: map[types.NamespacedName]bool{{Namespace: "ns", Name: "legacy"}: true},
	}}, owned("a", "web", noon, nil), owned("b", "web", noon, func(p *corev1.Pod) { copied(p); ready(p) }),
		owned("c", "web", later, copied), owned("d", "web", noon, copies("settings")))
	if web := l.Owners["web"]; len(l.dead) != 1 || l.dead[0].Object.Name != "b" || !l.dead[0].Dead ||
		web.Pods != 4 || web.Away != 3 {
		t.Errorf("with a dead token are %+v, of web %+v", l.dead, web)
	}

	drives := judge{hurries: true, surroundings: surroundings{since: noon, cluster: podtokens.Cluster{
		Drivers: map[string]podtokens.CSIDriver{"once": {TokenRequests: []podtokens.Request{{}}}},
	}}}
	if l := listed(drives, driverPod("once", nil)); len(l.kept) != 1 || len(l.dead) != 0 {
		t.Errorf("a token that a driver keeps: %d kept, %d dead", len(l.kept), len(l.dead))
	}

	judges := judge{surroundings: surroundings{
		since: noon, legacy: map[types.NamespacedName]bool{{Namespace: "ns", Name: "legacy"}: true},
	}}
	l = listed(judges, owned("a", "web", noon, nil), owned("b", "web", noon, copies("legacy")))
	if len(l.Owners) != 0 || len(l.Old) != 1 || len(l.kept) != 1 {
		t.Fatalf("judged: %+v", l)
	}
	want := nodes.Holder{Namespace: "ns", Pod: "b", Tokens: judges.kept(owned("b", "web", noon, copies("legacy")))}
	if diff := cmp.Diff(want, l.kept[0]); diff != "" || len(want.Tokens) != 1 {
		t.Errorf("keeps its token (-want +got):\n%s", diff)
	}
}

func TestMemoryOfEvictions(t *testing.T) {
	m, how := &Memory{}, v1alpha1.NodeRefreshEvict
	pods := func(old ...Pod) func() (*list, error) {
		return func() (*list, error) { return &list{Pods: Pods{Old: old}}, nil }
	}
	unreadable := func() (*list, error) { return nil, errors.New("unreadable") }
	mustList := func(keyID string, read func() (*list, error)) *list {
		t.Helper()
		l, err := m.pods(how, keyID, noon, noon, time.Minute, read)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := mustList("k2", pods(old("p", "a", nil), old("q", "a", nil)))
	if again := mustList("k2", unreadable); again != first {
		t.Error("another list than that of a moment ago")
	}
	for _, uid := range []types.UID{"p", "q", "gone"} {
		m.note(uid, eviction.Refusal{Words: "no"}, true)
	}
	if m.use(&list{}) {
		t.Error("a list that is not the last one is used")
	}
	if _, err := m.pods(how, "k3", noon, noon, time.Minute, unreadable); err == nil || m.use(first) {
		t.Errorf("the list of another key is used (%v)", err)
	}
	mustList("k2", pods(old("p", "a", nil), old("q", "a", ending)))
	for uid, want := range map[types.UID]bool{"p": true, "q": false, "gone": false} {
		if _, refused := m.refusal(uid); refused != want {
			t.Errorf("the eviction of %s is refused: %t, want %t", uid, refused, want)
		}
	}
	if !m.allAlive("k2") || m.allAlive("k3") {
		t.Error("a list without a dead token is not remembered")
	}
	if _, err := m.pods(how, "k2", noon, noon.Add(time.Hour), time.Minute, func() (*list, error) {
		return &list{dead: []Pod{old("p", "a", nil)}}, nil
	}); err != nil || m.allAlive("k2") {
		t.Errorf("a dead token is overlooked (%v)", err)
	}
	mustList("k2", pods())
	m.forget()
	if _, refused := m.refusal("p"); refused || m.last.list != nil || m.allAlive("k2") {
		t.Errorf("not forgotten: %+v", m)
	}
}

func TestMemoryOfSurroundings(t *testing.T) {
	m := &Memory{}
	reads := 0
	around := func(keyID string, since time.Time, err error) error {
		t.Helper()
		read := func() (surroundings, error) { reads++; return surroundings{keyID: keyID, since: since}, err }
		got, readErr := m.surroundings(keyID, since, read)
		if readErr == nil && (got.keyID != keyID || !got.since.Equal(since)) {
			t.Errorf("those of %s since %s instead of %s since %s", got.keyID, got.since, keyID, since)
		}
		return readErr
	}
	if err := around("", time.Time{}, errors.New("unreadable")); err == nil {
		t.Error("what could not be read is remembered")
	}
	for i, test := range []struct {
		keyID string
		since time.Time
		reads int
	}{
		{"k2", noon, 2}, {"k2", noon, 2}, {"k3", noon, 3}, {"k3", noon.Add(1), 4}, {"k3", noon.Add(1), 4},
	} {
		if err := around(test.keyID, test.since, nil); err != nil || reads != test.reads {
			t.Errorf("%d: %d reads, want %d (%v)", i, reads, test.reads, err)
		}
	}
	m.forget()
	if err := around("k3", noon.Add(1), nil); err != nil || reads != 5 {
		t.Errorf("not forgotten: %d reads, %v", reads, err)
	}
}

// TestReasonsOfSeveral has pods that wait for each other, pods that do not end, and nodes that are done.
func TestReasonsOfSeveral(t *testing.T) {
	object := func(name string, age time.Duration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(noon.Add(-age)),
		}}
	}
	stuck := func(p *Pod) { p.Object.DeletionTimestamp = &metav1.Time{Time: noon.Add(-time.Hour)} }
	system := func(p *Pod) { p.System = true }
	unready := func(p *Pod) { p.Ready = false }
	const more = "; 1 pods to be evicted, which hold a token older than key version 3"
	waits := func(name, lasting string) string {
		return "pod ns/" + name + " to be ready before more pods like it are evicted" + lasting
	}
	held := func(name string, age time.Duration) map[types.UID]Owner {
		return map[types.UID]Owner{"a": {Pods: 2, Away: 1, Unready: object(name, age)}}
	}
	dns := Owner{Away: 1, Unready: object("dns", 0)}
	for _, test := range []struct {
		name    string
		pods    Pods
		want    string
		blocked bool
	}{
		{"one that does not end", Pods{Old: []Pod{old("p", "a", stuck)}},
			"pod ns/p on node n to end, which has been terminating for 60m: inspect its containers and volumes, or delete it " +
				"by force", true},
		{
			"for a minute", Pods{Old: []Pod{old("p", "a", nil)}, Owners: held("q", nodes.Patience)},
			waits("q", ", for 60s") + more, false,
		},
		{
			"for longer", Pods{Old: []Pod{old("p", "a", nil)}, Owners: held("q", nodes.Patience+1)},
			waits("q", ", for 60s") + more, true,
		},
		{"its controller may lose one", Pods{
			Old: []Pod{old("p", "a", nil)}, Owners: map[types.UID]Owner{"a": {Pods: 20, Away: 1, Unready: object("q", 0)}},
		}, more[2:], false},
		{"nobody knows for which", Pods{
			Old: []Pod{old("p", "a", nil)}, Owners: map[types.UID]Owner{"a": {Pods: 2, Away: 1}},
		}, more[2:], false},
		{
			"one that is not ready waits for none", Pods{Old: []Pod{old("p", "a", unready)}, Owners: held("q", 0)}, more[2:],
			false,
		},
		{"a system pod", Pods{
			Old: []Pod{old("p", "a", system)}, Owners: map[types.UID]Owner{"a": {Pods: 20}}, System: dns,
		}, waits("dns", "") + more, false},
		{"another pod does not wait for the system", Pods{
			Old: []Pod{old("p", "a", nil)}, Owners: map[types.UID]Owner{"a": {Pods: 20}}, System: dns,
		}, more[2:], false},
		{"a system pod of a controller that may lose none", Pods{
			Old: []Pod{old("p", "a", system)}, Owners: held("q", 0),
		}, waits("q", "") + more, false},
	} {
		e := &Executor{How: v1alpha1.NodeRefreshEvict, Keys: nodes.Keys{Next: 3, Old: 2}, Memory: &Memory{}, Now: noon}
		words, blocked := nodes.Join(e.Reasons(&Observed{since: noon, list: &list{Pods: test.pods}}))
		if words != test.want || blocked != test.blocked {
			t.Errorf("%s: waits for %q, %t", test.name, words, blocked)
		}
	}

	// None of these waits for another, but the one pod that is to be evicted does.
	e := &Executor{How: v1alpha1.NodeRefreshEvict, Keys: nodes.Keys{Next: 3, Old: 2}, Memory: &Memory{}, Now: noon}
	owners := map[types.UID]Owner{}
	var all []Pod
	for i, c := range []func(*Pod){ending, unready} {
		owner := fmt.Sprintf("o%d", i)
		owners[types.UID(owner)] = Owner{Pods: 1, Away: 1, Unready: object("never-"+owner, 0)}
		all = append(all, old("p"+owner, owner, c))
	}
	owners[""] = Owner{Pods: 1, Away: 1, Unready: object("never-bare", 0)}
	all = append(all, old("bare", "", nil))
	for _, name := range []string{"z", "y", "x"} {
		owners[types.UID(name)] = Owner{Pods: 1, Away: 1, Unready: object("not-"+name, 0)}
		all = append(all, old("p"+name, name, nil))
	}
	var words []string
	for _, r := range e.unready(Pods{Old: all, Owners: owners}) {
		words = append(words, r.Words)
	}
	if diff := cmp.Diff([]string{waits("not-x", ""), waits("not-y", ""), waits("not-z", "")}, words); diff != "" {
		t.Errorf("who waits (-want +got):\n%s", diff)
	}

	// Nodes that Keyturn did not make.
	e.How = v1alpha1.NodeRefreshReplace
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	o := &Observed{judged: []*corev1.Node{node("done"), node("n")}, since: noon}
	if r := e.Reasons(o); r != nil {
		t.Errorf("before pods were listed: %v", r)
	}
	p := old("p", "a", nil)
	o.list = &list{Pods: Pods{Old: []Pod{p}}, on: map[string][]Pod{"n": {p}}}
	const older = "pod ns/p on node n to be deleted, which may hold a token older than key version 3: " +
		"Keyturn did not make the node, and cannot read it"
	if words, _ := nodes.Join(e.Reasons(o)); words != older {
		t.Errorf("waits for %q", words)
	}
}

// TestReasonsWhileRolled has another system replace nodes that Keyturn did not make, except one that it keeps.
func TestReasonsWhileRolled(t *testing.T) {
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	on := func(node string, names ...string) (pods []Pod) {
		for _, name := range names {
			pods = append(pods, old(name, "a", func(p *Pod) { p.Object.Spec.NodeName = node }))
		}
		return pods
	}
	e := &Executor{
		How: v1alpha1.NodeRefreshReplace, Rolled: true, Keeps: func(n *corev1.Node) bool { return n.Name == "kept" },
		Keys: nodes.Keys{Next: 3, Old: 2}, Memory: &Memory{}, Now: noon,
	}
	o := &Observed{judged: []*corev1.Node{node("done"), node("kept"), node("rolled")}, since: noon, list: &list{
		Pods: Pods{Owners: map[types.UID]Owner{"a": {Pods: 4}}},
		on:   map[string][]Pod{"kept": on("kept", "p"), "rolled": on("rolled", "q", "r")},
	}}
	const want = "1 pods to be evicted, which hold a token older than key version 3; node rolled to be replaced, on " +
		"which pod ns/q on node rolled (and 1 more) may hold a token older than key version 3"
	if words, blocked := nodes.Join(e.Reasons(o)); words != want || blocked {
		t.Errorf("waits for %q, %t", words, blocked)
	}

	// A node that Keyturn replaces takes a pod with a dead token along.
	e.Rolled, e.Keeps = false, nil
	o.judged, o.list = []*corev1.Node{node("done")}, &list{dead: on("ours", "p")}
	if words, _ := nodes.Join(e.Reasons(o)); words != "" {
		t.Errorf("waits for %q, although Keyturn replaces the node", words)
	}
}
