package tokens

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// tokenPod is a pod that was made an hour before, runs, and has a token for the API server and one for somebody else.
func tokenPod(change func(*corev1.Pod)) *corev1.Pod {
	seconds := func(s int64) *int64 { return &s }
	projected := func(name, audience string, life int64) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{}},
				{
					ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
						Audience: audience, Path: "token", ExpirationSeconds: seconds(life),
					},
				},
			},
		}}}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid", CreationTimestamp: metav1.NewTime(minute(-60))},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "first"}},
			Containers: []corev1.Container{
				{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "api"}, {Name: "vault"}}},
			},
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
	fresh := nodes.Token{KeyID: "new"}
	old := func(issued, life float64) nodes.Token {
		return nodes.Token{KeyID: "old", IssuedAt: minute(issued), RenewBy: minute(issued + life)}
	}
	missing := nodes.Token{Missing: true}
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	young := func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(minute(1)) }
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: minute(20)} }
	both := func(a, b func(*corev1.Pod)) func(*corev1.Pod) { return func(p *corev1.Pod) { a(p); b(p) } }
	subPath := func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[1].SubPath = "token" }
	tests := []struct {
		name   string
		pod    func(*corev1.Pod)
		tokens []nodes.Token
		// wait and inPlace are what is found; inPlace is as wait where it is empty.
		wait, inPlace string
	}{
		{name: "all new", tokens: []nodes.Token{fresh, fresh}, wait: "renewed"},
		{
			name: "old: four fifths of its life, and the slack", tokens: []nodes.Token{old(-10, 60), fresh},
			wait: "old ns/p by +39m40s renewed",
		},
		{
			name: "two old: the later counts", tokens: []nodes.Token{old(-10, 60), old(0, 10)},
			wait: "old ns/p old ns/p by +39m40s",
		},
		{
			name: "old, of a year: a day", tokens: []nodes.Token{old(-60, 365*24*60), fresh},
			wait: "old ns/p by +23h1m40s renewed",
		},
		{
			name:   "of a key that nobody knows",
			tokens: []nodes.Token{{KeyID: "strange", IssuedAt: minute(5), RenewBy: minute(15)}, fresh},
			wait:   "old ns/p by +14m40s renewed",
		},
		{
			name: "not a token", tokens: []nodes.Token{{Problem: "malformed"}, fresh},
			wait: "old ns/p, whose volume api has no token in token (malformed), by +21m40s renewed",
		},
		{
			name: "no file, although it runs", tokens: []nodes.Token{fresh, missing},
			wait: "old ns/p, whose volume vault has no file token, by +21m40s renewed",
		},
		{
			name: "not started: the kubelet may have a token in memory", pod: pending, tokens: []nodes.Token{missing, fresh},
			wait: "old ns/p, which has not started, by +49m45.6s renewed", inPlace: "renewed",
		},
		{
			name: "not started, for too long to matter", pod: pending, tokens: []nodes.Token{fresh, missing},
			wait: "renewed",
		},
		{name: "made since", pod: young, tokens: []nodes.Token{fresh, fresh}},
		{name: "made since and not started", pod: both(young, pending), tokens: []nodes.Token{missing, missing}},
		{
			name: "made since with an old token is not believed", pod: young, tokens: []nodes.Token{old(1, 10), fresh},
			wait: "old ns/p by +10m40s",
		},
		{name: "ending with new tokens", pod: ending, tokens: []nodes.Token{fresh, fresh}},
		{
			name: "ending with an old token", pod: ending, tokens: []nodes.Token{old(0, 10), fresh},
			wait: "held: ns/p, which has an old token, to end",
		},
		{
			name: "ending with what is not a token", pod: ending,
			tokens: []nodes.Token{{Problem: "malformed", Missing: true}, fresh},
			wait:   "held: ns/p, which has an old token, to end",
		},
		{name: "ended but for its name", pod: ending, tokens: []nodes.Token{missing, missing}},
		{
			name: "ending for too long", pod: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: minute(1)} },
			tokens: []nodes.Token{old(0, 10), fresh},
			wait: "BLOCKED: ns/p to end, which has been terminating for 19m: inspect its containers and volumes, or delete " +
				"it by force",
		},
		{
			name: "by subPath", pod: subPath, tokens: []nodes.Token{fresh, fresh},
			wait: "BLOCKED: ns/p to be deleted, which mounts a token of volume vault by subPath and never sees a new one " +
				"renewed",
		},
		{name: "by subPath, made since", pod: both(subPath, young), tokens: []nodes.Token{fresh, fresh}},
		{
			name: "by subPath, ending", pod: both(subPath, ending), tokens: []nodes.Token{fresh, fresh},
			wait: "held: ns/p, which has an old token, to end",
		},
	}
	now := minute(20)
	if h := judge(v1alpha1.NodeRefreshWait, nodes.Refresh{}, "new", nil, now); !h.Known {
		t.Error("without pods it is not known what they hold")
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pods := []podTokens{{pod: tokenPod(test.pod), tokens: test.tokens}}
			r := nodes.Refresh{KeyVersion: 2, Since: begun}
			if got := describe(judge(v1alpha1.NodeRefreshWait, r, "new", pods, now)); got != test.wait {
				t.Errorf("Wait:\n got  %s\n want %s", got, test.wait)
			}
			if got := describe(judge(v1alpha1.NodeRefreshInPlace, r, "new", pods, now)); got != test.wait {
				t.Errorf("InPlace, before its kubelet is restarted:\n got  %s\n want %s", got, test.wait)
			}
			r.Kubelet = minute(0.1)
			if got := describe(judge(v1alpha1.NodeRefreshWait, r, "new", pods, now)); got != test.wait {
				t.Errorf("Wait, with a kubelet that somebody restarted:\n got  %s\n want %s", got, test.wait)
			}
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
func describe(s Held) string {
	var out []string
	since := func(t time.Time) string { return "+" + t.Sub(begun).String() }
	strip := func(s string) string { return strings.TrimPrefix(s, "pod ") }
	for i, o := range s.Old {
		words := "old " + strip(o)
		if i == len(s.Old)-1 {
			words += " by " + since(s.RenewedBy)
		}
		out = append(out, words)
	}
	for _, h := range s.Stuck {
		kind := "held: "
		if h.Blocked {
			kind = "BLOCKED: "
		}
		out = append(out, kind+strip(h.Words))
	}
	if s.Renewed {
		out = append(out, "renewed")
	}
	return strings.Join(out, " ")
}
