package evict

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

// old is a ready pod of a controller.
func old(name, owner string, change func(*Pod)) Pod {
	p := Pod{
		Object: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
			Spec:       corev1.PodSpec{NodeName: "n"},
		},
		Owner: types.UID(owner), Ready: true,
	}
	if change != nil {
		change(&p)
	}
	return p
}

func ending(p *Pod) { p.Object.DeletionTimestamp = &metav1.Time{Time: noon} }

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestPlan(t *testing.T) {
	system := func(p *Pod) { p.System = true }
	unready := func(p *Pod) { p.Ready = false }
	refused := func(p *Pod) { p.Refused = true }
	dead := func(p *Pod) { p.Dead = true }
	many := func(n int, owner string) (all []Pod) {
		for i := range n {
			all = append(all, old(fmt.Sprintf("%s-%02d", owner, i), owner, nil))
		}
		return all
	}
	tests := []struct {
		name string
		pods Pods
		want string
	}{
		{"none", Pods{}, ""},
		{"one of each controller", Pods{
			Old:    append(many(2, "a"), many(2, "b")...),
			Owners: map[types.UID]Owner{"a": {Pods: 2}, "b": {Pods: 2}},
		}, "a-00 b-00"},
		{"none while one is away", Pods{Old: many(1, "a"), Owners: map[types.UID]Owner{"a": {Pods: 2, Away: 1}}}, ""},
		{"a tenth", Pods{Old: many(25, "a"), Owners: map[types.UID]Owner{"a": {Pods: 29, Away: 1}}}, "a-00"},
		{"one that is not ready is away already", Pods{
			Old:    []Pod{old("p", "a", nil), old("q", "a", unready)},
			Owners: map[types.UID]Owner{"a": {Pods: 2, Away: 1}},
		}, "q"},
		{
			"one that is ending", Pods{Old: []Pod{old("p", "a", ending)}, Owners: map[types.UID]Owner{"a": {Pods: 1, Away: 1}}},
			"",
		},
		{
			"a bare pod", Pods{Old: []Pod{old("p", "", nil), old("q", "a", nil)}, Owners: map[types.UID]Owner{"a": {Pods: 1}}},
			"q",
		},
		{"a bare pod that the user released", Pods{Old: []Pod{old("p", "", func(p *Pod) { p.Released = true })}}, "p"},
		{"one system pod at a time", Pods{
			Old:    []Pod{old("dns", "a", system), old("cni", "b", system), old("web", "c", nil)},
			Owners: map[types.UID]Owner{"a": {Pods: 1}, "b": {Pods: 1}, "c": {Pods: 1}},
		}, "dns web"},
		{"no system pod while one is away", Pods{
			Old: []Pod{old("dns", "a", system)}, Owners: map[types.UID]Owner{"a": {Pods: 2}}, System: Owner{Away: 1},
		}, ""},
		{"those that were refused come last", Pods{
			Old:    []Pod{old("p", "a", refused), old("q", "a", nil)},
			Owners: map[types.UID]Owner{"a": {Pods: 2}},
		}, "q"},
		{"those with a dead token come first", Pods{
			Old:    []Pod{old("p", "a", nil), old("q", "a", dead)},
			Owners: map[types.UID]Owner{"a": {Pods: 2}},
		}, "q"},
		{"those with a dead token keep their order", Pods{
			Old:    []Pod{old("p", "a", dead), old("q", "b", dead)},
			Owners: map[types.UID]Owner{"a": {Pods: 1}, "b": {Pods: 1}},
		}, "p q"},
		{"one with a dead token that was refused comes last", Pods{
			Old:    []Pod{old("p", "a", func(p *Pod) { dead(p); refused(p) }), old("q", "a", nil)},
			Owners: map[types.UID]Owner{"a": {Pods: 2}},
		}, "q"},
		{"those that were refused keep their order", Pods{
			Old:    []Pod{old("p", "a", refused), old("q", "b", refused)},
			Owners: map[types.UID]Owner{"a": {Pods: 1}, "b": {Pods: 1}},
		}, "p q"},
		{"one that is ending, of a controller that may lose more", Pods{
			Old: []Pod{old("p", "a", ending)}, Owners: map[types.UID]Owner{"a": {Pods: 20, Away: 1}},
		}, ""},
		{"one that is not ready costs its controller nothing", Pods{
			Old: []Pod{old("p", "a", unready), old("q", "a", nil)}, Owners: map[types.UID]Owner{"a": {Pods: 20, Away: 1}},
		}, "p q"},
		{"others do not count as system pods", Pods{
			Old:    []Pod{old("web", "a", nil), old("dns", "b", system)},
			Owners: map[types.UID]Owner{"a": {Pods: 1}, "b": {Pods: 1}},
		}, "web dns"},
	}
	for _, test := range tests {
		var names []string
		for _, p := range Plan(test.pods) {
			names = append(names, p.Object.Name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%s: evicts %q, want %q", test.name, got, test.want)
		}
	}
	released := many(2*mostAtOnce, "")
	for i := range released {
		released[i].Released = true
	}
	if n := len(Plan(Pods{Old: released})); n != mostAtOnce {
		t.Errorf("%d are evicted in one call", n)
	}
}

// tokenPod is a pod with a token for the API server, made at a time.
func tokenPod(made time.Time, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p", CreationTimestamp: metav1.NewTime(made)},
		Spec: corev1.PodSpec{
			NodeName: "n",
			Containers: []corev1.Container{
				{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/token"}}},
			},
			Volumes: []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{
				Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
				}},
			}}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

// copies has the container copy a Secret into its environment, and nothing else.
func copies(secret string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes, p.Spec.Containers[0].VolumeMounts = nil, nil
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}},
		}
	}
}

func TestJudge(t *testing.T) {
	around := surroundings{since: noon, legacy: map[types.NamespacedName]bool{{Namespace: "ns", Name: "legacy"}: true}}
	restarted := func(at time.Time) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			copies("legacy")(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{
				Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at)}},
			}}
		}
	}
	mounts := func(p *corev1.Pod) {
		p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "legacy"}}
	}
	later := noon.Add(clockSlack + time.Second)
	for _, test := range []struct {
		name               string
		pod                *corev1.Pod
		evicted, old, kept bool
	}{
		{"made before", tokenPod(noon.Add(-time.Minute), nil), true, true, false},
		{"made then", tokenPod(noon, nil), true, true, false},
		{"made by a clock that is a little ahead", tokenPod(noon.Add(clockSlack), nil), true, true, false},
		{"made since", tokenPod(later, nil), false, false, false},
		{"not scheduled", tokenPod(noon, func(p *corev1.Pod) { p.Spec.NodeName = "" }), false, false, false},
		{"without a token", tokenPod(noon, copies("settings")), false, false, false},
		{"mounts a legacy token", tokenPod(noon, mounts), true, false, false},
		{"copied a legacy token", tokenPod(noon, restarted(noon)), true, false, true},
		{"copied it again since", tokenPod(noon, restarted(later)), true, false, false},
		{"copied a legacy token, made since", tokenPod(later, copies("legacy")), false, false, false},
		{"mirrors a static pod", tokenPod(noon, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}), false, false, false},
	} {
		evicts, judges := judge{surroundings: around, evicts: true}, judge{surroundings: around}
		evicted, old, kept := evicts.isOld(test.pod), judges.isOld(test.pod), len(judges.kept(test.pod)) > 0
		if evicted != test.evicted || old != test.old || kept != test.kept {
			t.Errorf("%s: evicted %t, old %t, kept %t", test.name, evicted, old, kept)
		}
		for node, want := range map[string]bool{"n": test.evicted, "other": test.old} {
			empties := judge{surroundings: around, emptied: map[string]bool{node: true}}
			if got := empties.isOld(test.pod); got != want {
				t.Errorf("%s: old while node %s is emptied: %t", test.name, node, got)
			}
		}
	}
}

func TestCountsOfControllers(t *testing.T) {
	yes := true
	of := func(name, owner string, made time.Time, ready bool, namespace string) *corev1.Pod {
		return tokenPod(made, func(p *corev1.Pod) {
			p.Name, p.UID, p.Namespace = name, types.UID(name), namespace
			p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(owner), Controller: &yes}}
			if ready {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}
		})
	}
	later := noon.Add(time.Hour)
	l := &list{Pods: Pods{Owners: map[types.UID]Owner{}}, on: map[string][]Pod{}}
	j := judge{surroundings: surroundings{since: noon}, evicts: true}
	for _, p := range []*corev1.Pod{
		of("a", "web", noon, true, "ns"), of("b", "web", noon, false, "ns"), of("c", "web", later, false, "ns"),
		of("d", "dns", noon, false, "kube-system"), of("e", "dns", later, false, "kube-system"),
	} {
		l.add(j, p)
	}
	web := l.Owners["web"]
	if len(l.Old) != 3 || len(l.on["n"]) != 3 || web.Pods != 3 || web.Away != 2 || web.Unready.Name != "c" {
		t.Errorf("%d are old, and of web %+v", len(l.Old), web)
	}
	if l.System.Away != 1 || l.System.Unready.Name != "e" {
		t.Errorf("of the system %+v", l.System)
	}
}

func TestReasons(t *testing.T) {
	running := nodes.Keys{Next: 3, Old: 2}
	refused := func(pod types.UID, r eviction.Refusal) *Memory {
		m := &Memory{}
		m.note(pod, r, true)
		return m
	}
	young := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "young", CreationTimestamp: metav1.NewTime(noon)},
	}
	tests := []struct {
		name    string
		how     v1alpha1.NodeRefresh
		keys    nodes.Keys
		pods    Pods
		memory  *Memory
		want    string
		blocked bool
	}{
		{
			"no rotation runs", v1alpha1.NodeRefreshEvict, nodes.Keys{Next: 3}, Pods{Old: []Pod{old("p", "", nil)}}, nil, "",
			false,
		},
		{"a bare pod", v1alpha1.NodeRefreshEvict, running, Pods{Old: []Pod{old("p", "", nil), old("q", "", nil)}}, nil,
			"pod ns/p on node n to be deleted (and 1 more), which holds a token older than key version 3 and which no " +
				"controller would " +
				"make again: delete it, or annotate it with keyturn.dev/evict=true to have it evicted", true},
		{"more to evict, and some that end", v1alpha1.NodeRefreshEvict, running,
			Pods{Old: []Pod{old("p", "a", nil), old("q", "b", ending)}, Owners: map[types.UID]Owner{"a": {Pods: 1}}}, nil,
			"1 pods to be evicted, which hold a token older than key version 3; 1 evicted pods to end", false},
		{"a refusal", v1alpha1.NodeRefreshEvict, running, Pods{Old: []Pod{old("p", "a", nil)}},
			refused("p", eviction.Refusal{Since: noon, Words: "a webhook says no", Hopeless: true}),
			"pod ns/p on node n to be evicted: a webhook says no", true},
		{"a pod that is to be ready", v1alpha1.NodeRefreshEvict, running, Pods{
			Old: []Pod{old("p", "a", nil)}, Owners: map[types.UID]Owner{"a": {Pods: 2, Away: 1, Unready: young}},
		}, nil, "pod ns/young to be ready before more pods like it are evicted; 1 pods to be evicted, which hold a token " +
			"older than key version 3", false},
		{"an older pod on a node that is not ours", v1alpha1.NodeRefreshReplace, running,
			Pods{Old: []Pod{old("p", "a", nil), old("q", "a", nil)}}, nil,
			"pod ns/p on node n to be deleted (and 1 more), which may hold a token older than key version 3: " +
				"Keyturn did not make the node, and cannot read it", true},
	}
	for _, test := range tests {
		e := &Executor{How: test.how, Keys: test.keys, Memory: test.memory, Now: noon}
		if e.Memory == nil {
			e.Memory = &Memory{}
		}
		o := &Observed{
			judged: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n"}}}, since: noon,
			list: &list{Pods: test.pods, on: map[string][]Pod{"n": test.pods.Old}},
		}
		words, blocked := nodes.Join(e.Reasons(o))
		if words != test.want || blocked != test.blocked {
			t.Errorf("%s: waits for %q, %t", test.name, words, blocked)
		}
	}
}

func TestKeyVersion(t *testing.T) {
	node := []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n"}}}
	running, over := nodes.Keys{Next: 3, Old: 2}, nodes.Keys{Next: 3}
	with := func(on string) *Observed {
		pods := []Pod{old("p", "a", nil)}
		return &Observed{judged: node, since: noon, list: &list{Pods: Pods{Old: pods}, on: map[string][]Pod{on: pods}}}
	}
	none := &Observed{judged: node, since: noon, list: &list{}}
	judged := func(names ...string) *Observed {
		o := with("other")
		o.judged = nil
		for _, name := range names {
			o.judged = append(o.judged, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		return o
	}
	for _, test := range []struct {
		name string
		how  v1alpha1.NodeRefresh
		keys nodes.Keys
		o    *Observed
		want int
	}{
		{"no rotation runs", v1alpha1.NodeRefreshEvict, over, with("n"), 3},
		{"nothing known yet", v1alpha1.NodeRefreshEvict, running, &Observed{judged: node}, 2},
		{"not since when they are new", v1alpha1.NodeRefreshEvict, running, &Observed{judged: node, list: &list{}}, 2},
		{"an older pod on another node of ours", v1alpha1.NodeRefreshEvict, running, judged("n", "other"), 3},
		{"not listed yet", v1alpha1.NodeRefreshEvict, running, &Observed{judged: node, since: noon}, 2},
		{"an older pod", v1alpha1.NodeRefreshEvict, running, with("n"), 2},
		{"an older pod on a node without an object", v1alpha1.NodeRefreshEvict, running, with("gone"), 2},
		{"an older pod on a node that somebody else judges", v1alpha1.NodeRefreshInPlace, running, with("other"), 3},
		{"no older pod", v1alpha1.NodeRefreshEvict, running, none, 3},
	} {
		e := &Executor{How: test.how, Keys: test.keys}
		if got := e.KeyVersion(test.o, "n"); got != test.want {
			t.Errorf("%s: key version %d, want %d", test.name, got, test.want)
		}
	}
}

func TestMemory(t *testing.T) {
	m := &Memory{}
	reads := 0
	read := func() (*list, error) { reads++; return &list{}, nil }
	var last *list
	const how = v1alpha1.NodeRefreshEvict
	for i, test := range []struct {
		how   v1alpha1.NodeRefresh
		keyID string
		since time.Time
		at    time.Duration
		reads int
	}{
		{how, "k2", noon, 0, 1}, {how, "k2", noon, 0, 1},
		{how, "k2", noon, time.Minute, 2}, {how, "k3", noon, time.Minute, 3},
		{how, "k3", noon.Add(1), time.Minute, 4}, {how, "k3", noon.Add(1), 0, 5},
		{v1alpha1.NodeRefreshWait, "k3", noon.Add(1), 0, 6}, {how, "k3", noon.Add(1), 0, 7},
	} {
		var err error
		last, err = m.pods(test.how, test.keyID, test.since, noon.Add(test.at), time.Minute, read)
		if err != nil || reads != test.reads {
			t.Errorf("%d: %d reads, want %d (%v)", i, reads, test.reads, err)
		}
	}
	if !m.use(last) || m.use(last) || m.use(&list{}) {
		t.Error("a list is not used once")
	}
	m.note("p", eviction.Refusal{Since: noon, Words: "no"}, true)
	m.note("p", eviction.Refusal{Since: noon.Add(time.Minute), Words: "still no"}, true)
	if r, ok := m.refusal("p"); !ok || r != (eviction.Refusal{Since: noon, Words: "still no"}) {
		t.Errorf("remembered: %+v, %t", r, ok)
	}
	m.note("p", eviction.Refusal{}, false)
	if _, ok := m.refusal("p"); ok {
		t.Error("an eviction that was allowed is remembered as refused")
	}
	if _, err := m.pods(how, "k3", noon.Add(1), noon, time.Minute, read); err != nil || reads != 8 {
		t.Errorf("after an eviction pods are not listed again: %d, %v", reads, err)
	}
	fails := func() (*list, error) { return nil, fmt.Errorf("unreadable") }
	if _, err := m.pods(how, "k4", noon, noon, time.Minute, fails); err == nil {
		t.Error("what could not be read is remembered")
	}
}
