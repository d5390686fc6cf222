package diagnose

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
	"github.com/keyturn/keyturn/internal/install"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// healthy are facts in which nothing is wrong.
func healthy(t *testing.T) Facts {
	t.Helper()
	f := Facts{Program: "v0.1.0", Preview: "rotate --dry-run", Cluster: &ClusterFacts{Object: healthyCluster()}}
	a := &f.Admin
	a.Server.Value = Server{Version: "v1.36.4", At: now}
	a.Rights.Value = []Right{{Words: "patch userclusters", For: "start a rotation", Allowed: true}}
	objects, err := install.Objects()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if _, ok := resources[o.GetKind()]; !ok {
			continue
		}
		found := o.DeepCopy()
		found.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
		a.Installed = append(a.Installed, Installed{Wanted: o, Found: Read[*unstructured.Unstructured]{Value: found}})
	}
	a.Deployment.Value = &appsv1.Deployment{}
	a.Deployment.Value.Labels = map[string]string{versionLabel: "v0.1.0"}
	a.Deployment.Value.Spec.Replicas = new(int32(2))
	a.Deployment.Value.Status.ReadyReplicas = 2
	a.Lease.Value = &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
		HolderIdentity: new("controller-0"), RenewTime: &metav1.MicroTime{Time: now.Add(-2 * time.Second)},
		LeaseDurationSeconds: new(int32(15)),
	}}
	c := f.Cluster
	c.Secrets.Value = []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Name: "prod-1",
		Labels: map[string]string{
			v1alpha1.LabelKeyVersion: "1", v1alpha1.LabelClusterUID: "uid",
		}}}}
	c.Access.Value = Access{Endpoint: "https://prod:6443", Expires: new(now.Add(300 * 24 * time.Hour))}
	c.Server.Value = Server{Version: "v1.36.4", At: now}
	c.Nodes.Value = []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}}
	c.ControlPlane.Value.Servers = []LoneServer{{Node: "a", Answer: Read[Server]{Value: Server{At: now}}}}
	return f
}

func healthyCluster() *v1alpha1.UserCluster {
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "keyturn-system", Name: "prod", UID: "uid",
		Generation: 3}}
	uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{KubeconfigSecret: "prod-kubeconfig"}
	uc.Spec.KSASigningKey = v1alpha1.KSASigningKey{Version: 1, Algorithm: v1alpha1.RS256, Publish: []string{"s3://bucket"}}
	uc.Status.ObservedGeneration = 3
	uc.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, ObservedGeneration: 3},
		{Type: v1alpha1.ConditionKSASigningKeyRotation, Status: metav1.ConditionTrue, ObservedGeneration: 3},
	}
	uc.Status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{
		{Version: 1, Algorithm: v1alpha1.RS256, CreatedAt: metav1.NewTime(now.Add(-30 * 24 * time.Hour))},
	}
	uc.Status.APIServers = []v1alpha1.APIServerStatus{{Name: "a", Ready: true, SigningVersion: 1,
		AcceptedVersions: []int32{1}}}
	uc.Status.Publications = []v1alpha1.PublicationStatus{{Name: "s3://bucket", AcceptedVersions: []int32{1}}}
	uc.Status.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructureStatus{}
	return uc
}

func TestHealthy(t *testing.T) {
	r := Judge(healthy(t), now)
	for _, c := range r.Checks {
		if c.Result != Pass {
			t.Errorf("%s: %+v", c.Name, c)
		}
	}
	if !r.Healthy || len(r.Checks) != 21 || r.Cluster != "keyturn-system/prod" {
		t.Errorf("%d checks of %q, healthy: %t", len(r.Checks), r.Cluster, r.Healthy)
	}
}

var (
	forbidden = apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "x", errors.New("no"))
	notFound  = apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, "x")
)

func setCondition(uc *v1alpha1.UserCluster, kind string, reason, message string) {
	uc.Status.Conditions = slices.DeleteFunc(uc.Status.Conditions, func(c metav1.Condition) bool { return c.Type == kind })
	uc.Status.Conditions = append(uc.Status.Conditions, metav1.Condition{
		Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: 3,
	})
}

// TestJudge has one thing wrong at a time.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Facts)
		check string
		want  Result
		text  string
	}{
		"admin away": {func(f *Facts) { f.Admin.Server.Err = errors.New("refused") }, "Kubernetes API", Fail,
			"does not answer: refused"},
		"admin old": {func(f *Facts) { f.Admin.Server.Value.Version = "v1.34.9" }, "Kubernetes API", Fail,
			"older than 1.35"},
		"clock": {func(f *Facts) { f.Admin.Server.Value.Skew = -time.Minute }, "clock", Warning,
			"1m0s behind that of this machine"},
		"no rights": {func(f *Facts) { f.Admin.Rights.Value[0].Allowed = false }, "your permissions", Warning,
			"you may not patch userclusters"},
		"no definition": {func(f *Facts) { f.Admin.Installed[0].Found.Err = notFound }, "CustomResourceDefinition", Fail,
			"does not exist"},
		"other definition": {func(f *Facts) {
			_ = unstructured.SetNestedField(f.Admin.Installed[0].Found.Value.Object, "Cluster", "spec", "scope")
		}, "CustomResourceDefinition", Warning, "is not the one of this program, version v0.1.0"},
		"not established": {func(f *Facts) { delete(f.Admin.Installed[0].Found.Value.Object, "status") },
			"CustomResourceDefinition", Fail,
			"is not established"},
		"unread policy": {func(f *Facts) { f.Admin.Installed[1].Found.Err = forbidden }, "admission policies", Skipped,
			"you may not read"},
		"policy gone": {func(f *Facts) { f.Admin.Installed[2].Found.Err = notFound }, "admission policies", Fail,
			"does not exist"},
		"controller elsewhere": {func(f *Facts) { f.Admin.Deployment.Err = notFound }, "controller Deployment", Skipped,
			"the controller runs elsewhere"},
		"no pod ready": {func(f *Facts) { f.Admin.Deployment.Value.Status.ReadyReplicas = 0 }, "controller Deployment",
			Fail, "no pod of"},
		"a pod less": {func(f *Facts) { f.Admin.Deployment.Value.Status.ReadyReplicas = 1 }, "controller Deployment",
			Warning, "only 1 of 2"},
		"other version": {func(f *Facts) { f.Program = "v0.2.0" }, "controller Deployment", Warning, "is of version v0.1.0"},
		"crash": {func(f *Facts) {
			f.Admin.Pods.Value = []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{
				ContainerStatuses: []corev1.ContainerStatus{{Name: "controller", State: corev1.ContainerState{
					Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"},
				}}},
			}}}
		}, "controller Deployment", Warning, "container controller of pod p waits: ImagePullBackOff: no such image"},
		"no lease": {func(f *Facts) { f.Admin.Lease.Err = notFound }, "controller Lease", Fail, "no controller has worked"},
		"old lease": {func(f *Facts) { f.Admin.Lease.Value.Spec.RenewTime.Time = now.Add(-time.Hour) }, "controller Lease",
			Fail,
			"was not renewed for 60m"},
		"unheld lease": {func(f *Facts) { f.Admin.Lease.Value.Spec.HolderIdentity = nil }, "controller Lease", Fail,
			"nobody holds"},

		"deleted": {ofCluster(func(uc *v1alpha1.UserCluster) { uc.DeletionTimestamp = new(metav1.NewTime(now)) }),
			"cluster object", Warning, "being deleted"},
		"advanced": {ofCluster(func(uc *v1alpha1.UserCluster) { uc.Spec.EnableAdvancedCluster = true }), "cluster object",
			Fail, "advanced cluster"},
		"unobserved": {ofCluster(func(uc *v1alpha1.UserCluster) { uc.Generation = 4 }), "cluster object", Warning,
			"has not seen the latest change"},
		"blocked": {ofCluster(func(uc *v1alpha1.UserCluster) {
			setCondition(uc, v1alpha1.ConditionReady, v1alpha1.ReasonRotationBlocked, "delete pod a")
		}), "conditions", Fail, "the rotation is blocked: delete pod a"},
		"unseen": {ofCluster(func(uc *v1alpha1.UserCluster) {
			setCondition(uc, v1alpha1.ConditionReady, v1alpha1.ReasonNotObserved, "refused")
		}), "conditions", Fail, "cannot observe the cluster: refused"},
		"waiting": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.KSASigningKey.Step, uc.Status.KSASigningKey.WaitingFor = "Refresh", "node a"
		}), "conditions", Warning, "step Refresh, which began an unknown time ago, waits for node a"},
		"retired in use": {ofCluster(func(uc *v1alpha1.UserCluster) {
			setCondition(uc, v1alpha1.ConditionKSATokensExpired, v1alpha1.ReasonRetiredInUse, "pod a")
		}), "conditions", Warning, "retired a key that was in use"},
		"lost key": {func(f *Facts) { f.Cluster.Secrets.Value = nil }, "key Secrets", Fail, "key version 1 is missing"},
		"no Secrets": {func(f *Facts) { f.Cluster.Secrets.Err = forbidden }, "key Secrets", Skipped,
			"you may not read the metadata"},
		"other UID": {func(f *Facts) { f.Cluster.Secrets.Value[0].Labels[v1alpha1.LabelClusterUID] = "x" }, "key Secrets",
			Warning,
			"label of another cluster"},
		"old key": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.KSASigningKey.Keys[0].CreatedAt = metav1.NewTime(now.Add(-121 * 24 * time.Hour))
		}), "age of the key", Warning, "is 121d old"},
		"server away": {ofCluster(func(uc *v1alpha1.UserCluster) { uc.Status.APIServers[0].Ready = false }), "API servers",
			Fail, "a is not ready"},
		"server behind": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.APIServers[0].AcceptedVersions = []int32{1,
				2}
		}), "API servers", Fail,
			"accepts [1 2], not version 1 alone"},
		"foreign key": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.APIServers[0].ForeignKeyIDs = []string{"kid"}
		}), "API servers", Warning, "keys that Keyturn did not make"},
		"unpublished": {ofCluster(func(uc *v1alpha1.UserCluster) { uc.Status.Publications[0].WaitingFor = "bucket" }),
			"fleet and publications", Fail,
			"s3://bucket waits for bucket"},
		"unknown publication": {ofCluster(func(uc *v1alpha1.UserCluster) { uc.Status.Publications = nil }),
			"fleet and publications", Warning,
			"0 of 1 destinations"},
		"old tokens": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.KSASigningKey.OldTokens = &v1alpha1.OldTokenStatus{Total: 1}
		}), "tokens", Warning, "1 pods keep a token"},
		"incomplete ledger": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.KSASigningKey.Tokens = &v1alpha1.TokensStatus{ObservedAt: new(metav1.NewTime(now)),
				Unknown: []string{"the ledger of a"}}
		}), "tokens", Warning, "the ledger of a"},
		"leftover": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.Infrastructure.Kubeadm.Leftovers = []v1alpha1.LeftoverKey{{Node: "n", Path: "/old", KeyID: "kid"}}
		}), "private keys left behind", Warning, "/old of node n"},
		"leftover Secret": {ofCluster(func(uc *v1alpha1.UserCluster) {
			uc.Status.Infrastructure.Kubeadm.LeftoverSecrets = []string{"default/cp-1"}
		}), "private keys left behind", Warning, "Secret default/cp-1 of the admin cluster"},

		"no access": {func(f *Facts) { f.Cluster.Access.Err = forbidden }, "kubeconfig", Skipped,
			"you may not read the Secret"},
		"expired": {func(f *Facts) { f.Cluster.Access.Value.Expires = new(now.Add(-time.Hour)) }, "kubeconfig",
			Fail, "has expired"},
		"expires": {func(f *Facts) { f.Cluster.Access.Value.Expires = new(now.Add(49 * time.Hour)) }, "kubeconfig",
			Warning, "expires in 2 days"},
		"cluster away": {func(f *Facts) { f.Cluster.Server.Err = errors.New("refused") },
			"Access to the cluster/Kubernetes API", Fail, "does not answer: refused"},
		"user clock": {func(f *Facts) { f.Cluster.Server.Value.Skew = time.Minute }, "Access to the cluster/clock", Warning,
			"1m0s ahead of that of the admin"},
		"kubeadm": {func(f *Facts) { f.Cluster.ControlPlane.Value.Problems = []string{"not one of kubeadm"} },
			"control plane", Fail, "not one of kubeadm"},
		"alone": {func(f *Facts) { f.Cluster.ControlPlane.Value.Servers[0].Answer.Err = errors.New("500") },
			"control plane", Fail, "not ready alone"},
		"alone, clock": {func(f *Facts) { f.Cluster.ControlPlane.Value.Servers[0].Answer.Value.Skew = time.Hour },
			"control plane", Warning, "1h0m0s ahead of"},
		"node away": {func(f *Facts) { f.Cluster.Nodes.Value[0].Status.Conditions = nil }, "nodes", Fail,
			"nodes are not ready"},
		"no preflight": {func(f *Facts) { f.Cluster.Preflight.Err = errors.New("refused") }, "workloads", Fail,
			"what a rotation would meet: refused"},
		"stopping":      {finding(preflight.Stops, "waits"), "workloads", Fail, "waits"},
		"breaking":      {finding(preflight.Breaks, "breaks"), "workloads", Warning, "breaks"},
		"worth to know": {finding(preflight.Warns, "warns"), "workloads", Pass, "1 notes, which `rotate --dry-run` shows"},
		"paused": {func(f *Facts) {
			prod := &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}
			f.Cluster.Object.Spec.Infrastructure = v1alpha1.Infrastructure{ClusterAPI: prod}
			f.Cluster.ClusterAPI.Value = "Cluster a not to be paused"
		}, "Cluster API", Fail, "waits for Cluster a not to be paused"},
	} {
		f := healthy(t)
		c.spoil(&f)
		r := Judge(f, now)
		i := slices.IndexFunc(r.Checks, func(check Check) bool {
			return check.Name == c.check ||
				check.Category+"/"+check.Name == c.check
		})
		if i < 0 {
			t.Errorf("%s: no check %s", name, c.check)
			continue
		}
		got := r.Checks[i]
		if text := fmt.Sprint(got.Detail, got.Problems); got.Result != c.want || !strings.Contains(text, c.text) {
			t.Errorf("%s: %s: %s, want %s with %q", name, got.Result, text, c.want, c.text)
		}
		if r.Healthy != (r.Count(Fail) == 0) {
			t.Errorf("%s: healthy: %t", name, r.Healthy)
		}
		for _, other := range r.Checks {
			if other.Name != got.Name && other.Result == Fail && c.want != Fail {
				t.Errorf("%s: %s fails too: %v", name, other.Name, other.Problems)
			}
		}
	}
}

func ofCluster(f func(*v1alpha1.UserCluster)) func(*Facts) {
	return func(all *Facts) { f(all.Cluster.Object) }
}

func finding(e preflight.Effect, text string) func(*Facts) {
	return func(f *Facts) {
		f.Cluster.Preflight.Value.Findings = []preflight.Finding{{
			Kind: preflight.BarePod, Effect: e, Text: text, Object: preflight.Object{Kind: "Pod", Namespace: "shop",
				Name: "web"},
		}}
	}
}

// TestWrite shows a report to people.
func TestWrite(t *testing.T) {
	f := healthy(t)
	f.Admin.Lease.Err = notFound
	f.Cluster.Access.Err = forbidden
	f.Cluster.Nodes.Value = nil
	var b strings.Builder
	if err := Judge(f, now).Write(&b); err != nil {
		t.Fatal(err)
	}
	//nolint:lll // lines of the report
	const want = `- Validation Category: Admin Cluster
Checking Kubernetes API...PASS (v1.36.4)
Checking clock...PASS
Checking your permissions...PASS
Checking CustomResourceDefinition...PASS
Checking admission policies...PASS
Checking controller Deployment...PASS (2 of 2 pods ready, version v0.1.0)
Checking controller Lease...FAIL
    FAIL: there is no Lease keyturn-system/keyturn-controller: no controller has worked in this cluster yet; start keyturn-controller; its log says why it does not run
- Validation Category: UserCluster
Checking cluster object...PASS (on kubeadm, keys from files)
Checking conditions...PASS (status last written an unknown time ago)
Checking key Secrets...PASS (versions 1)
Checking age of the key...PASS (version 1, RS256, 30d)
Checking API servers...PASS (1, as the controller saw each alone)
Checking fleet and publications...PASS (1)
Checking tokens...PASS (0 legacy tokens)
Checking private keys left behind...PASS
- Validation Category: Access to the cluster
Checking kubeconfig...SKIPPED
    SKIPPED: you may not read the Secret with the kubeconfig of the cluster; have a role bound to you that allows it
Cluster is not healthy. Checks: 14 passed, 0 with warnings, 1 failed, 1 skipped.
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

// TestManyObjects names some of many objects.
func TestManyObjects(t *testing.T) {
	c := newCheck("a", "b").warn("act", "wrong")
	for i := range 12 {
		c.about([]string{fmt.Sprint("object ", i, "\x1b[2J")})
	}
	var b strings.Builder
	if err := (Report{Checks: []Check{*c}}).Write(&b); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); !strings.Contains(text, "object 9 [2J\n        and 2 more\n") {
		t.Errorf("got %q", text)
	}
}
