package nodes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// begun is when the refresh of these tests began: minutes are counted from it.
var begun = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func minute(m float64) time.Time { return begun.Add(time.Duration(m * float64(time.Minute))) }

// tokenPod is a pod that was made an hour before, runs, and has a token for the API server and one for somebody else.
func tokenPod(change func(*corev1.Pod)) *corev1.Pod {
	seconds := func(s int64) *int64 { return &s }
	projected := func(name, audience string, life int64) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, Path: "token", ExpirationSeconds: seconds(life)}},
			},
		}}}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid", CreationTimestamp: metav1.NewTime(minute(-60))},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "first"}},
			Containers:     []corev1.Container{{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "api"}, {Name: "vault"}}}},
			Volumes: []corev1.Volume{
				projected("api", "", 3607), projected("vault", "vault", 600),
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

func TestJudge(t *testing.T) {
	fresh := func(replaced float64) Token { return Token{KeyID: "new", Replaced: minute(replaced)} }
	old := func(issued, life float64) Token {
		return Token{KeyID: "old", IssuedAt: minute(issued), RenewBy: minute(issued + life), Replaced: minute(issued)}
	}
	missing := Token{Missing: true}
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	young := func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(minute(1)) }
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: minute(20)} }
	both := func(a, b func(*corev1.Pod)) func(*corev1.Pod) { return func(p *corev1.Pod) { a(p); b(p) } }
	subPath := func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[1].SubPath = "token" }
	tests := []struct {
		name   string
		pod    func(*corev1.Pod)
		tokens []Token
		// wait and inPlace are what is found; inPlace is as wait where it is empty.
		wait, inPlace string
	}{
		{name: "all new", tokens: []Token{fresh(1), fresh(3)}, wait: "youngest +3m0s"},
		{name: "a file from the future counts from now", tokens: []Token{fresh(1), fresh(300)}, wait: "youngest +20m0s"},
		{
			name: "old: four fifths of its life, and the slack", tokens: []Token{old(-10, 60), fresh(1)},
			wait: "old ns/p sure +39m40s youngest +1m0s",
		},
		{
			name: "two old: the later counts", tokens: []Token{old(-10, 60), old(0, 10)},
			wait: "old ns/p old ns/p sure +39m40s",
		},
		{name: "old, of a year: a day", tokens: []Token{old(-60, 365*24*60), fresh(1)}, wait: "old ns/p sure +23h1m40s youngest +1m0s"},
		{
			name: "of a key that nobody knows", tokens: []Token{{KeyID: "strange", IssuedAt: minute(5), RenewBy: minute(15)}, fresh(1)},
			wait: "old ns/p sure +14m40s youngest +1m0s",
		},
		{
			name: "not a token", tokens: []Token{{Problem: "malformed"}, fresh(1)},
			wait: "old ns/p, whose volume api has no token in token (malformed), sure +21m40s youngest +1m0s",
		},
		{
			name: "no file, although it runs", tokens: []Token{fresh(1), missing},
			wait: "old ns/p, whose volume vault has no file token, sure +21m40s youngest +1m0s",
		},
		{
			name: "not started: the kubelet may have a token in memory", pod: pending, tokens: []Token{missing, fresh(1)},
			wait: "old ns/p, which has not started, sure +49m45.6s youngest +1m0s", inPlace: "youngest +1m0s",
		},
		{name: "not started, for too long to matter", pod: pending, tokens: []Token{fresh(1), missing}, wait: "youngest +1m0s"},
		{name: "made since", pod: young, tokens: []Token{fresh(1), fresh(2)}},
		{name: "made since and not started", pod: both(young, pending), tokens: []Token{missing, missing}},
		{name: "made since with an old token is not believed", pod: young, tokens: []Token{old(1, 10), fresh(2)}, wait: "old ns/p sure +10m40s"},
		{name: "ending with new tokens", pod: ending, tokens: []Token{fresh(1), fresh(1)}},
		{name: "ending with an old token", pod: ending, tokens: []Token{old(0, 10), fresh(1)}, wait: "held: ns/p, which has an old token, to end"},
		{name: "ended but for its name", pod: ending, tokens: []Token{missing, missing}},
		{
			name: "ending for too long", pod: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: minute(1)} },
			tokens: []Token{old(0, 10), fresh(1)},
			wait:   "BLOCKED: ns/p has been terminating for 19m: look at its containers and volumes, or delete it by force",
		},
		{
			name: "by subPath", pod: subPath, tokens: []Token{fresh(1), fresh(1)},
			wait: "BLOCKED: ns/p mounts a token of volume vault by subPath and never sees a new one: delete the pod so that it is made anew youngest +1m0s",
		},
		{name: "by subPath, made since", pod: both(subPath, young), tokens: []Token{fresh(1), fresh(1)}},
		{name: "by subPath, ending", pod: both(subPath, ending), tokens: []Token{fresh(1), fresh(1)}, wait: "held: ns/p, which has an old token, to end"},
	}
	now := minute(20)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pods := []podTokens{{pod: tokenPod(test.pod), tokens: test.tokens}}
			r := Refresh{KeyVersion: 2, Since: begun}
			if got := describe(judge(v1alpha1.NodeRefreshWait, r, "new", pods, now)); got != test.wait {
				t.Errorf("Wait:\n got  %s\n want %s", got, test.wait)
			}
			r.Kubelet = minute(0.1)
			want := test.inPlace
			if want == "" {
				want = test.wait
			}
			if got := describe(judge(v1alpha1.NodeRefreshInPlace, r, "new", pods, now)); got != want {
				t.Errorf("InPlace:\n got  %s\n want %s", got, want)
			}
		})
	}
}

// describe puts a sight into words, its times as those since the refresh began.
func describe(s tokenSight) string {
	var out []string
	since := func(t time.Time) string { return "+" + t.Sub(begun).String() }
	strip := func(s string) string { return strings.TrimPrefix(s, "pod ") }
	for i, o := range s.old {
		words := "old " + strip(o)
		if i == len(s.old)-1 {
			words += " sure " + since(s.sure)
		}
		out = append(out, words)
	}
	for _, h := range s.held {
		kind := "held: "
		if h.blocked {
			kind = "BLOCKED: "
		}
		out = append(out, kind+strip(h.words))
	}
	if !s.youngest.IsZero() {
		out = append(out, "youngest "+since(s.youngest))
	}
	return strings.Join(out, " ")
}

func TestSubPathToken(t *testing.T) {
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		want   string
	}{
		{"no subPath", nil, ""},
		{"of the file", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "token" }, "api"},
		{"of the file, told otherwise", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "./token/" }, "api"},
		{"of another file of the volume", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "ca.crt" }, ""},
		{"of the whole volume", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "." }, ""},
		{"of its directory", func(p *corev1.Pod) {
			p.Spec.Volumes[1].Projected.Sources[1].ServiceAccountToken.Path = "deep/token"
			p.Spec.Containers[0].VolumeMounts[1].SubPath = "deep"
		}, "vault"},
		{"by an expression", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[1].SubPathExpr = "$(NAME)" }, "vault"},
		{"of another volume", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts[0] = corev1.VolumeMount{Name: "scratch", SubPath: "token"}
		}, ""},
		{"by an init container that runs", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "api", SubPath: "token"}}
		}, "api"},
		{"by an init container that has ended", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "api", SubPath: "token"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{
				Name: "first", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}},
			}}
		}, ""},
	}
	for _, test := range tests {
		if got, found := SubPathToken(tokenPod(test.change)); got != test.want || found != (test.want != "") {
			t.Errorf("%s: %q, %t, want %q", test.name, got, found, test.want)
		}
	}
}

func TestRenewal(t *testing.T) {
	if got, want := Renewal(tokenPod(nil)), 48*time.Minute+5600*time.Millisecond+renewalSlack; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	long := func(p *corev1.Pod) {
		*p.Spec.Volumes[1].Projected.Sources[1].ServiceAccountToken.ExpirationSeconds = 1 << 32
	}
	if got, want := Renewal(tokenPod(long)), maxRenewal+renewalSlack; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := Renewal(&corev1.Pod{}); got != 0 {
		t.Errorf("%s of a pod without tokens", got)
	}
}

func TestRefresh(t *testing.T) {
	const inPlace, wait = v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait
	begin := func(name string) view {
		return with(healthy(name, 1), func(v *view) {
			v.Refresh = Refresh{KeyVersion: 2, Since: begun}
			v.Tokens = tokenSight{known: true, old: []string{"pod ns/p"}}
		})
	}
	started := func(name string) view {
		return with(begin(name), func(v *view) { v.Refresh.Kubelet, v.Heard = minute(1), true })
	}
	renewed := func(name string) view {
		return with(started(name), func(v *view) { v.Tokens.old, v.Tokens.youngest = nil, minute(2) })
	}
	proven := func(name string) view { return with(renewed(name), func(v *view) { v.Refresh.Proven = minute(2) }) }
	tests := []struct {
		name  string
		how   v1alpha1.NodeRefresh
		at    float64
		views []view
		want  string
	}{
		{"one at a time", inPlace, 0, []view{healthy("n1", 1), healthy("n2", 1)}, "begin n1 > restartKubelet n1"},
		{"all at once", wait, 0, []view{healthy("n1", 1), healthy("n2", 1)}, "begin n1, begin n2"},
		{"of the new version", inPlace, 0, []view{healthy("n1", 2)}, ""},
		{"one that is not ready has no kubelet to spare", inPlace, 0, []view{with(healthy("n1", 1), func(v *view) { v.Ready = false }), healthy("n2", 1)},
			"begin n2 > restartKubelet n2"},
		{"one that does not run", inPlace, 0, []view{with(healthy("n1", 1), func(v *view) { v.Running, v.Ready = false, false })}, "start n1"},
		{"crash between begin and restart", inPlace, 1, []view{begin("n1"), healthy("n2", 1)}, "restartKubelet n1"},
		{"the refresh of an earlier rotation", inPlace, 1, []view{with(begin("n1"), func(v *view) { v.Refresh.KeyVersion = 1 })}, "begin n1 > restartKubelet n1"},
		{"old tokens", inPlace, 1, []view{started("n1"), healthy("n2", 1)}, ""},
		{"not heard of", inPlace, 2, []view{with(renewed("n1"), func(v *view) { v.Heard = false }), healthy("n2", 1)}, ""},
		{"not ready", inPlace, 2, []view{with(renewed("n1"), func(v *view) { v.Ready = false }), healthy("n2", 1)}, ""},
		{"tokens that could not be looked at", inPlace, 2, []view{with(renewed("n1"), func(v *view) { v.Tokens = tokenSight{} }), healthy("n2", 1)}, ""},
		{"renewed: the next", inPlace, 2, []view{renewed("n1"), healthy("n2", 1)}, "prove n1, begin n2 > restartKubelet n2"},
		{"applications still may use old tokens", inPlace, 6.9, []view{proven("n1")}, ""},
		{"and may not", inPlace, 7, []view{proven("n1")}, "refreshed n1"},
		{"a token that was renewed once more changes nothing", inPlace, 7,
			[]view{with(proven("n1"), func(v *view) { v.Tokens.youngest = minute(6) })}, "refreshed n1"},
		{"proven in the future: a clock was wrong", inPlace, 7,
			[]view{with(proven("n1"), func(v *view) { v.Refresh.Proven = minute(60) })}, "prove n1"},
		{"a pod holds an old token", inPlace, 60, []view{with(proven("n1"), func(v *view) { v.Tokens.held = []reason{{}} }), healthy("n2", 1)},
			"begin n2 > restartKubelet n2"},
		{"an old token turned up again", inPlace, 60, []view{with(proven("n1"), func(v *view) { v.Tokens.old = []string{"x"} })}, ""},
		{"no pods had an old token", inPlace, 2, []view{with(renewed("n1"), func(v *view) { v.Tokens.youngest = time.Time{} })}, "refreshed n1"},
		{"waiting: no kubelet is ended", wait, 2, []view{begin("n1")}, ""},
		{"waiting: pods may be starting with an old token", wait, 2, []view{with(begin("n1"), func(v *view) { v.Tokens.old = nil })}, ""},
		{"waiting: they no longer are", wait, 2.06, []view{with(begin("n1"), func(v *view) { v.Tokens.old, v.Tokens.youngest = nil, minute(2) })}, "prove n1"},
		{"one that leaves is left alone", inPlace, 60, []view{
			with(begin("n1"), func(v *view) { v.Leaving, v.Cordoned, v.Pods = true, true, 1 }), healthy("n2", 2), healthy("n3", 2)}, "evict n1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := policy{refresh: test.how, keyVersion: 2, reload: 5 * time.Minute}
			pools := []v1alpha1.NodePool{pool("a", int32(len(test.views)), 1)}
			if test.want == "evict n1" {
				pools[0].Replicas = 2
			}
			if got := words(decide(pools, test.views, p, minute(test.at))); got != test.want {
				t.Errorf("decide:\n got  %s\n want %s", got, test.want)
			}
		})
	}
}

// TestRefreshOfRunningPods goes through whole refreshes with the objects of a real API server.
func TestRefreshOfRunningPods(t *testing.T) {
	for _, how := range []v1alpha1.NodeRefresh{v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait} {
		t.Run(string(how), func(t *testing.T) {
			b := newBench(t, 2, 1)
			b.rollout.tokensEvery = 0
			b.uc.Spec.KSASigningKey.NodeRefresh, b.uc.Spec.KSASigningKey.TokenReloadSeconds = how, 300
			b.uc.Status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{{Version: 1, KeyID: "old"}, {Version: 2, KeyID: "new"}}
			before := b.until("two nodes", 1, all(2, 1)).Nodes
			var files []TokenFile
			for i, n := range before {
				p := b.pod(fmt.Sprintf("p%d", i), n.Name, func(p *corev1.Pod) {
					p.Spec.ServiceAccountName = "default"
					p.Spec.Volumes = tokenPod(nil).Spec.Volumes[1:2]
					p.Spec.Volumes[0].Projected.Sources = p.Spec.Volumes[0].Projected.Sources[1:]
				})
				files = append(files, TokenFile{Pod: p.UID, Volume: "vault", Path: "token"})
				b.machines.tokens[files[i]] = Token{KeyID: "old", IssuedAt: time.Now(), RenewBy: time.Now().Add(10 * time.Minute)}
			}
			st := b.until("an old token to be named", 2, waitingFor("node "+before[0].Name+": pod "+b.ns+"/p0 to get a token of key version 2"))
			if st.Blocked {
				t.Errorf("blocked: %q", st.Waiting)
			}
			renew := func(i int) {
				b.machines.tokens[files[i]] = Token{KeyID: "new", Replaced: time.Now().Add(b.ahead)}
			}
			renew(0)
			if how == v1alpha1.NodeRefreshWait {
				if !strings.Contains(st.Waiting, "to get a token of key version 2, which is sure by 20") {
					t.Errorf("it does not say when: %q", st.Waiting)
				}
				b.ahead = minWait + time.Second
			}
			b.until("the second node", 2, waitingFor("node "+before[1].Name+": pod "+b.ns+"/p1 to get a token",
				"the applications on node "+before[0].Name+" to read their new tokens, which is sure at "))
			renew(1)
			b.until("the second node's applications", 2, waitingFor("the applications on node "+before[1].Name))
			b.ahead += 299 * time.Second
			must(t, b.rollout.Converge(b.ctx, b.uc, 2))
			if b.observe().Waiting == "" {
				t.Error("nothing is waited for before the time to reload is over")
			}
			b.ahead += 3 * time.Second
			after := b.until("the end", 2, func(st State) bool { return st.Nodes[0].KeyVersion+st.Nodes[1].KeyVersion == 4 }).Nodes
			// The controller converges no more from here on.
			for _, n := range after {
				node, err := client.CoreV1().Nodes().Get(b.ctx, n.Name, metav1.GetOptions{})
				if err != nil || node.Labels[v1alpha1.LabelKeyVersion] != "2" {
					t.Errorf("node %s is labelled %v, %v", n.Name, node.Labels, err)
				}
			}
			if !all(2, 2)(b.observe()) {
				t.Errorf("it ends with %+v", b.observe())
			}
			if after[0].Name != before[0].Name || after[1].Name != before[1].Name || b.machines.most != 2 || !b.podExists("p0") {
				t.Errorf("nodes were %v, are %v", before, after)
			}
			want := count(how == v1alpha1.NodeRefreshInPlace)
			for _, n := range before {
				if got := b.machines.restarts[n.Name]; got != want {
					t.Errorf("the kubelet of %s was restarted %d times, want %d", n.Name, got, want)
				}
			}
			// Only a rotation to a newer key changes something now.
			b.uc.Spec.KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshReplace
			must(t, b.rollout.Converge(b.ctx, b.uc, 2))
			if st := b.observe(); !all(2, 2)(st) || st.Nodes[0].Name != before[0].Name {
				t.Errorf("after a change of the mode: %+v", st)
			}
		})
	}
}

func TestRefreshReasons(t *testing.T) {
	v := with(healthy("n1", 1), func(v *view) {
		v.Refresh = Refresh{KeyVersion: 2, Since: begun}
		v.Tokens = tokenSight{known: true, old: []string{"pod ns/p", "pod ns/q"}, sure: minute(40)}
	})
	started := func(v *view) { v.Refresh.Kubelet, v.Heard = minute(1), true }
	renewed := func(v *view) {
		started(v)
		v.Tokens.old, v.Tokens.youngest, v.Refresh.Proven = nil, minute(2), minute(2)
	}
	const inPlace, wait = v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait
	tests := []struct {
		how    v1alpha1.NodeRefresh
		at     float64
		change func(*view)
		want   string
	}{
		{inPlace, 1, func(*view) {}, "node n1: its kubelet to be started again"},
		{inPlace, 3, func(*view) {}, "BLOCKED node n1: its kubelet to be started again"},
		{inPlace, 2, started, "node n1: pod ns/p to get a token of key version 2 (and 1 more)"},
		{
			inPlace, 4, started,
			"BLOCKED node n1: pod ns/p to get a token of key version 2 (and 1 more), which is overdue: look at the events of the pod and the log of the kubelet",
		},
		{inPlace, 2, func(v *view) { started(v); v.Tokens = tokenSight{trouble: "it ended"} }, "node n1: its tokens to be readable: it ended"},
		{inPlace, 2, func(v *view) { renewed(v); v.Heard = false }, "node n1: its kubelet to report"},
		{inPlace, 3, renewed, "the applications on node n1 to read their new tokens, which is sure at 2026-01-01T12:07:00Z"},
		{
			inPlace, 3, func(v *view) { renewed(v); v.Refresh.Proven = time.Time{} },
			"the applications on node n1 to read their new tokens, which is sure at 2026-01-01T12:07:00Z",
		},
		{inPlace, 8, renewed, "node n1 to be called one of key version 2"},
		{inPlace, 8, func(v *view) { renewed(v); v.Tokens.held = []reason{{words: "pod ns/q to end"}} }, "node n1: pod ns/q to end"},
		{wait, 4, func(*view) {}, "node n1: pod ns/p to get a token of key version 2 (and 1 more), which is sure by 2026-01-01T12:40:00Z"},
		{
			wait, 42, func(*view) {},
			"BLOCKED node n1: pod ns/p to get a token of key version 2 (and 1 more), which is overdue: look at the events of the pod and the log of the kubelet",
		},
		{wait, 2, renewed, "node n1: pods that were just being started to have no old token, which is sure at 2026-01-01T12:02:03Z"},
	}
	for _, test := range tests {
		var got []string
		for _, r := range refreshReasons(with(v, test.change), policy{refresh: test.how, keyVersion: 2, reload: 5 * time.Minute}, minute(test.at)) {
			got = append(got, strings.Repeat("BLOCKED ", count(r.blocked))+r.words)
		}
		if joined := strings.Join(got, "; "); joined != test.want {
			t.Errorf("%s at %v:\n got  %s\n want %s", test.how, test.at, joined, test.want)
		}
	}
}
