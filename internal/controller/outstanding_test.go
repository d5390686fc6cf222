package controller_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/signer/ledger"
)

// ledgers has clusters whose signers keep ledgers, and whose pods are the pods of the admin cluster. Its clock advances
// by a second each time the controller reads it, and further when a test wants it to.
type ledgers struct {
	*world
	ahead time.Duration
}

func newLedgers(t *testing.T) *ledgers {
	l := &ledgers{world: newWorld(t)}
	config := rest.CopyConfig(controllerConfig)
	config.Impersonate = rest.ImpersonationConfig{}
	reach, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	l.reconciler.UserCluster = func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error) {
		return reach, nil
	}
	l.reconciler.Now = func() time.Time {
		l.ahead += time.Second
		return time.Now().Add(l.ahead)
	}
	return l
}

func whenUnused(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Retire = v1alpha1.RetireWhenUnused }

// note has the signer of the first API server report that it signed tokens for the account app.
func (l *ledgers) note(key client.ObjectKey, entries ...ledger.Entry) {
	l.Helper()
	newest := l.get(key).Status.KSASigningKey.Keys[0]
	l.with(key, func(c *userCluster) {
		report := ledger.Report{Since: newest.CreatedAt.Time}
		for _, e := range entries {
			e.KeyID, e.Namespace, e.ServiceAccount = newest.KeyID, l.namespace, "app"
			report.Entries = append(report.Entries, e)
		}
		for i := range c.servers {
			c.servers[i].ledger = ledger.Report{Since: report.Since}
		}
		c.servers[0].ledger = report
	})
}

// pod makes a pod of Deployment web that has a token for vault.
func (l *ledgers) pod(name string) *corev1.Pod {
	l.Helper()
	yes := true
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name + "-set", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "web", Controller: &yes},
		}},
		Spec: appsv1.ReplicaSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
			},
		},
	}
	if err := admin.Create(l.Context(), set); err != nil {
		l.Fatal(err)
	}
	projected := &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "token"}},
	}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set.Name, UID: set.UID, Controller: &yes},
		}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "app",
			Containers: []corev1.Container{{
				Name: "main", Image: "none", VolumeMounts: []corev1.VolumeMount{{Name: "vault", MountPath: "/vault"}},
			}},
			Volumes: []corev1.Volume{{Name: "vault", VolumeSource: corev1.VolumeSource{Projected: projected}}},
		},
	}
	if err := admin.Create(l.Context(), pod); err != nil {
		l.Fatal(err)
	}
	return pod
}

func ofPod(uid types.UID, audience string, expires time.Time) ledger.Entry {
	return ledger.Entry{
		Audiences: []string{audience}, Bound: &ledger.Object{Kind: "Pod", Name: "web", UID: string(uid)}, Expires: expires,
	}
}

func awaits(uc *v1alpha1.UserCluster) bool {
	return condition(uc, v1alpha1.ConditionKSATokensExpired).Reason == v1alpha1.ReasonTokensLive
}

// TestRetireWhenUnused keeps the old key until the last token of a living pod, or that somebody asked for, has expired.
func TestRetireWhenUnused(t *testing.T) {
	l := newLedgers(t)
	blue := l.settled("blue", threeServers, withSigners, whenUnused)
	start := time.Now().Add(l.ahead).Truncate(time.Second)
	l.note(blue,
		ofPod(l.pod("web-1").UID, "vault", start.Add(10*time.Hour)),
		ledger.Entry{Audiences: []string{v1alpha1.DefaultIssuer}, Expires: start.Add(12 * time.Hour)},
		ofPod("gone", "vault", start.Add(20*time.Hour)))
	l.rotate(blue)
	uc := l.until(blue, awaits)
	want := "1 requested and 1 third-party token of key version 1 to expire, the last at " +
		start.Add(12*time.Hour).UTC().Format(time.RFC3339)
	if got := uc.Status.KSASigningKey.WaitingFor; got != want {
		t.Errorf("it waits for %q, want %q", got, want)
	}
	counts := map[string]float64{"ThirdParty": 1, "Requested": 1, "Bound": 0, "Legacy": 0, "Unknown": 0}
	if diff := cmp.Diff(counts, l.metric("keyturn_old_key_tokens", blue)); diff != "" {
		t.Errorf("the metric (-want +got):\n%s", diff)
	}
	if at := uc.Status.KSASigningKey.Tokens.CertainAt; at == nil || !at.Time.Equal(start.Add(12*time.Hour+ledger.Leeway)) {
		t.Errorf("certain at %v", at)
	}
	l.reconciler = restarted(l) // what it knew of the tokens is lost
	for range 5 {
		if uc = l.round(blue); !awaits(uc) || !slices.Equal(l.stored(blue), []int{1, 2}) {
			t.Fatalf("it goes on to %+v", uc.Status.KSASigningKey)
		}
	}
	l.ahead += 12*time.Hour + ledger.Leeway
	uc = l.until(blue, isSettled)
	l.wantOnly(blue, 2)
	l.wantCondition(uc, v1alpha1.ConditionKSATokensExpired, metav1.ConditionTrue, v1alpha1.ReasonTokensExpired,
		"no third-party or requested token of the old key is valid")
	if tokens := uc.Status.KSASigningKey.Tokens; tokens != nil {
		t.Errorf("settled, and it tells of %+v", tokens)
	}
	if left := l.metric("keyturn_old_key_tokens", blue); len(left) > 0 {
		t.Errorf("settled, and the metric is %v", left)
	}
}

// restarted is a controller that remembers nothing, beside the one that was.
func restarted(l *ledgers) *controller.Reconciler {
	was := l.reconciler
	l.restart()
	next := l.reconciler
	next.UserCluster, next.Now = was.UserCluster, was.Now
	return next
}

// TestRetireTimeout takes the old key away at the limit, however often an API server died meanwhile, and names what
// lived.
func TestRetireTimeout(t *testing.T) {
	l := newLedgers(t)
	blue := l.settled("blue", threeServers, withSigners, whenUnused, func(uc *v1alpha1.UserCluster) {
		uc.Spec.KSASigningKey.RetireTimeoutSeconds = 3600
	})
	for version := 2; version <= 3; version++ { // the second has a limit of its own
		l.note(blue, ledger.Entry{Audiences: []string{"ci"}, Expires: time.Now().Add(l.ahead + 1000*time.Hour)})
		l.rotate(blue)
		l.until(blue, awaits)
		l.ahead += 30 * time.Minute
		l.with(blue, func(c *userCluster) { c.servers[1].Running, c.servers[1].Ready = c.servers[1].Configured, false })
		l.round(blue)
		if uc := l.until(blue, inStep("Retire")); !awaits(uc) {
			t.Errorf("half an hour later it is in %+v", uc.Status.KSASigningKey)
		}
		l.ahead += 31 * time.Minute
		uc := l.until(blue, isSettled)
		l.wantOnly(blue, version)
		c := condition(uc, v1alpha1.ConditionKSATokensExpired)
		if c.Reason != v1alpha1.ReasonRetiredInUse || !strings.Contains(c.Message, "1 requested token of key version") {
			t.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	warned := func(e string) bool {
		return strings.HasPrefix(e, "Warning RotateKSASigningKey RetiredInUse: the old key was retired without")
	}
	if told := l.events(blue); !slices.ContainsFunc(told, warned) {
		t.Errorf("no event tells of it: %q", told)
	}
}

// TestRetireNoLongerAwaited goes on as soon as the spec does not want to wait any more.
func TestRetireNoLongerAwaited(t *testing.T) {
	l := newLedgers(t)
	blue := l.settled("blue", withSigners, whenUnused)
	l.with(blue, func(c *userCluster) { c.servers[0].ledger.Since = time.Now() }) // it is certain in a year
	l.with(blue, func(c *userCluster) { c.servers[0].ledger.Since = time.Now().Add(time.Hour) })
	l.rotate(blue)
	uc := l.until(blue, awaits)
	if got := uc.Status.KSASigningKey.WaitingFor; !strings.HasPrefix(got,
		"any tokens that API server cp-0 did not record (its ledger began at ") {
		t.Errorf("it waits for %q", got)
	}
	uc.Spec.KSASigningKey.Retire = v1alpha1.RetireAfterRefresh
	if err := admin.Update(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	uc = l.until(blue, isSettled)
	l.wantOnly(blue, 2)
	if c := condition(uc, v1alpha1.ConditionKSATokensExpired); c.Reason != v1alpha1.ReasonRetiredInUse {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
}

// TestShowTokens tells who holds tokens when somebody asks, and for no longer than a minute.
func TestShowTokens(t *testing.T) {
	l := newLedgers(t)
	blue := l.settled("blue", withSigners)
	expires := time.Now().Add(l.ahead + time.Hour).Truncate(time.Second)
	l.note(blue,
		ofPod(l.pod("web-1").UID, "vault", expires), ofPod(l.pod("web-2").UID, "vault", expires.Add(-time.Minute)),
		ledger.Entry{Audiences: []string{"\x1b[31mci"}, Expires: expires})
	l.secret("ci", "2026-11-20")
	if uc := l.round(blue); uc.Status.KSASigningKey.Tokens != nil {
		t.Errorf("nobody asked, and it tells of %+v", uc.Status.KSASigningKey.Tokens)
	}
	for _, ask := range []string{"first", "second"} {
		l.annotate(blue, ask)
		tokens := l.round(blue).Status.KSASigningKey.Tokens
		if tokens == nil || tokens.Request != ask {
			t.Fatalf("asked for %q: %+v", ask, tokens)
		}
		at := metav1.NewTime(expires)
		want := []v1alpha1.WorkloadTokens{
			{
				Namespace: l.namespace, ServiceAccount: "app", Audience: "[31mci", KeyVersion: 1, Refresh: "Never",
				TokenCount: v1alpha1.TokenCount{Kind: "Requested", Count: 1, ExpiresAt: &at},
			},
			{
				Namespace: l.namespace, ServiceAccount: "app", Workload: "Deployment/web", Audience: "vault", KeyVersion: 1,
				Refresh: "Kubelet", TokenCount: v1alpha1.TokenCount{Kind: "ThirdParty", Count: 2, ExpiresAt: &at},
			},
			{
				Namespace: l.namespace, ServiceAccount: "ci", Workload: "Secret/ci", Refresh: "Secret", LastUsed: "2026-11-20",
				TokenCount: v1alpha1.TokenCount{Kind: "Legacy", Count: 1},
			},
		}
		others := func(w v1alpha1.WorkloadTokens) bool { return w.Namespace != l.namespace }
		if diff := cmp.Diff(want, slices.DeleteFunc(tokens.Workloads, others)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	l.ahead += time.Hour
	if tokens := l.round(blue).Status.KSASigningKey.Tokens; tokens == nil || len(tokens.Workloads) > 0 ||
		tokens.ObservedAt != nil {
		t.Errorf("an hour later it tells of %+v", tokens)
	}
}

func (l *ledgers) annotate(key client.ObjectKey, ask string) {
	l.Helper()
	patch := []byte(`{"metadata":{"annotations":{"keyturn.dev/show-tokens":"` + ask + `"}}}`)
	if err := admin.Patch(l.Context(), l.get(key), client.RawPatch(types.MergePatchType, patch)); err != nil {
		l.Fatal(err)
	}
}

func (l *ledgers) secret(name, lastUsed string) {
	l.Helper()
	err := admin.Create(l.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: l.namespace, Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: name},
			Labels: map[string]string{"kubernetes.io/legacy-token-last-used": lastUsed},
		},
		Type: corev1.SecretTypeServiceAccountToken,
	})
	if err != nil {
		l.Fatal(err)
	}
}
