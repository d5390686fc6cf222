package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
	"github.com/keyturn/keyturn/internal/kubetest"
)

const deploymentText = `apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {namespace: default, name: %[1]s, labels: {cluster.x-k8s.io/cluster-name: %[2]s%[3]s}}
spec: {%[4]s}
`

func rollerOf(admin client.Client, cluster string, now func() time.Time) *Roller {
	return &Roller{management: management{admin, "default", cluster}, client: admin, now: now, memory: &memory{}}
}

// TestRoller has machines replaced, each kind where it is owned, and names those that Cluster API does not replace.
func TestRoller(t *testing.T) {
	admin := startManagement(t, "Cluster", deploymentKind, controlPlaneKind)
	create(t, admin, fmt.Sprintf(clusterText, "one", false, controlPlaneKind, "a"))
	create(t, admin, fmt.Sprintf(deploymentText, "md-1", "one", "", "replicas: 1"))
	create(t, admin, fmt.Sprintf(deploymentText, "other", "two", "", "replicas: 1"))
	create(t, admin, fmt.Sprintf(deploymentText, "kept", "one", "", `rollout: {after: "2030-01-01T00:00:00Z"}`))
	create(t, admin, fmt.Sprintf(deploymentText, "by-hand", "one", "", "rollout: {strategy: {type: OnDelete}}"))
	create(t, admin, fmt.Sprintf(deploymentText, "held", "one", "", "paused: true"))
	now := time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC)
	since := now.Add(-time.Minute).Truncate(time.Second)
	r := rollerOf(admin, "one", func() time.Time { return now })

	reasons := must(r.Reasons(t.Context(), since))
	var words []string
	for _, reason := range reasons {
		words = append(words, reason.Words)
	}
	for _, want := range []string{
		"kept to be rolled out at 2030-01-01T00:00:00Z", "by-hand that are from before 2027-01-02T03:03:05Z to be deleted",
		"MachineDeployment default/held not to be paused",
	} {
		if !strings.Contains(strings.Join(words, "\n"), want) {
			t.Errorf("the reasons are %q, want one about %q", words, want)
		}
	}
	if len(reasons) != 3 {
		t.Errorf("there are %d reasons: %q", len(reasons), words)
	}
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}}
	uc.Spec.Infrastructure.ClusterAPI = &v1alpha1.ClusterAPIInfrastructure{Cluster: "one"}
	held := must(FindHeld(t.Context(), admin, uc))
	want := []Held{
		{deploymentKind, "default", "by-hand", "its strategy is OnDelete: delete its Machines in Refresh"},
		{deploymentKind, "default", "held", "it is paused"},
		{deploymentKind, "default", "kept", "its rollout.after is 2030-01-01T00:00:00Z"},
	}
	if diff := cmp.Diff(want, held); diff != "" {
		t.Error(diff)
	}

	then := now
	now = since.Add(2*slack - time.Millisecond)
	must(0, r.Roll(t.Context(), since)) // Cluster API might find the time to be still to come, and not look again
	wantAfter(t, admin, controlPlaneKind, "one", "")
	now = then
	must(0, r.Roll(t.Context(), since))
	after := "2027-01-02T03:03:10Z"
	wantAfter(t, admin, controlPlaneKind, "one", after)
	wantAfter(t, admin, deploymentKind, "md-1", after)
	wantAfter(t, admin, deploymentKind, "other", "")
	wantAfter(t, admin, deploymentKind, "kept", "2030-01-01T00:00:00Z")
	now = now.Add(time.Hour)
	must(0, r.Roll(t.Context(), since)) // it was asked for
	wantAfter(t, admin, deploymentKind, "md-1", after)
}

// TestMachinePools names the MachinePools of the cluster, which Cluster API has no rollout for, and leaves them alone.
func TestMachinePools(t *testing.T) {
	admin := startManagement(t, "Cluster", deploymentKind, controlPlaneKind, poolKind)
	create(t, admin, fmt.Sprintf(clusterText, "one", false, controlPlaneKind, "a"))
	for name, cluster := range map[string]string{"pool": "one", "foreign": "two"} {
		text := strings.ReplaceAll(deploymentText, deploymentKind, poolKind)
		create(t, admin, fmt.Sprintf(text, name, cluster, "", "replicas: 1"))
	}
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	r := rollerOf(admin, "one", func() time.Time { return now })
	must(0, r.Roll(t.Context(), now))
	wantAfter(t, admin, poolKind, "pool", "")
	reasons := must(r.Reasons(t.Context(), now))
	if len(reasons) != 1 || !strings.Contains(reasons[0].Words, "MachinePool default/pool") || reasons[0].Blocked {
		t.Errorf("the reasons are %+v, want one about MachinePool default/pool, which may come", reasons)
	}
}

// objectOf is an object of a kind of Cluster API.
func objectOf(kind string) *unstructured.Unstructured {
	o, group := &unstructured.Unstructured{}, coreVersion
	if kind == controlPlaneKind {
		group = controlPlaneVersion
	}
	o.SetGroupVersionKind(group.WithKind(kind))
	return o
}

func wantAfter(t *testing.T, admin client.Client, kind, name, want string, path ...string) {
	t.Helper()
	o := objectOf(kind)
	must(0, admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, o))
	got, _, err := unstructured.NestedString(o.Object, append(append([]string{"spec"}, path...), "rollout", "after")...)
	if err != nil || got != want {
		t.Errorf("rollout.after of %s %s is %q, %v, want %q", kind, name, got, err, want)
	}
}

const topologyText = `apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {namespace: default, name: classy}
spec:
  controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: KubeadmControlPlane, name: classy}
  topology:
    controlPlane: {replicas: 3}
    workers: {machineDeployments: [{name: a, class: x}, {name: b, class: x}]}
---
apiVersion: controlplane.cluster.x-k8s.io/v1beta2
kind: KubeadmControlPlane
metadata: {namespace: default, name: classy, labels: {topology.cluster.x-k8s.io/owned: ""}}
spec: {replicas: 3}
`

// TestRollTopology writes to the topology of the Cluster what that owns.
func TestRollTopology(t *testing.T) {
	admin := startManagement(t, "Cluster", deploymentKind, controlPlaneKind)
	create(t, admin, topologyText)
	const owned = ", topology.cluster.x-k8s.io/owned: '', topology.cluster.x-k8s.io/deployment-name: b"
	create(t, admin, fmt.Sprintf(deploymentText, "classy-b", "classy", owned, "replicas: 1"))
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	r := rollerOf(admin, "classy", func() time.Time { return now.Add(2 * slack) })
	must(0, r.Roll(t.Context(), now))
	wantAfter(t, admin, "Cluster", "classy", "2027-01-02T03:04:10Z", "topology", "controlPlane")
	wantAfter(t, admin, controlPlaneKind, "classy", "")
	wantAfter(t, admin, deploymentKind, "classy-b", "")
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(coreVersion.WithKind("Cluster"))
	must(0, admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "classy"}, o))
	list, _, err := unstructured.NestedSlice(o.Object, "spec", "topology", "workers", "machineDeployments")
	const want = "[map[class:x name:a] map[class:x name:b rollout:map[after:2027-01-02T03:04:10Z]]]"
	if got := fmt.Sprint(list); err != nil || got != want {
		t.Errorf("the topology has %s, %v", got, err)
	}
}

// TestRollIsTakenAway has somebody take rollout.after away. It is named, and the field is written again only on demand,
// or after a restart, and then with the same time: a machine that is new stays.
func TestRollIsTakenAway(t *testing.T) {
	admin := startManagement(t, "Cluster", deploymentKind, controlPlaneKind)
	create(t, admin, topologyText)
	const owned = ", topology.cluster.x-k8s.io/owned: '', topology.cluster.x-k8s.io/deployment-name: b"
	create(t, admin, fmt.Sprintf(deploymentText, "classy-b", "classy", owned, "replicas: 1"))
	create(t, admin, fmt.Sprintf(clusterText, "one", false, controlPlaneKind, "a"))
	create(t, admin, fmt.Sprintf(deploymentText, "md-1", "one", "", "replicas: 1"))
	for _, tt := range []struct {
		cluster, kind, name string
		after               func() string
		// take takes it away, as the field manager of the name.
		take    func(manager string)
		blocked string
	}{
		{"one", deploymentKind, "md-1", nil, func(manager string) {
			o := get(t, admin, deploymentKind, "md-1")
			replicas, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
			o.Object["spec"] = map[string]any{"replicas": replicas + 1}
			must(0, admin.Update(t.Context(), o, client.FieldOwner(manager)))
		}, "took away rollout.after of MachineDeployment default/md-1"},
		{"classy", "Cluster", "classy", func() string {
			list, _, _ := unstructured.NestedSlice(get(t, admin, "Cluster", "classy").Object, topologyDeployments...)
			after, _, _ := unstructured.NestedString(list[1].(map[string]any), "rollout", "after")
			return after
		}, func(manager string) {
			o := objectOf("Cluster")
			o.SetNamespace("default")
			o.SetName("classy")
			list := []any{map[string]any{"name": "a", "class": "x"}, map[string]any{"name": "b", "class": "x"}}
			must(0, unstructured.SetNestedSlice(o.Object, list, topologyDeployments...))
			must(0, admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner(manager),
				client.ForceOwnership))
		}, "took away rollout.after of MachineDeployment default/classy-b in the topology of Cluster default/classy"},
	} {
		t.Run(tt.cluster, func(t *testing.T) {
			since := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
			r := rollerOf(admin, tt.cluster, func() time.Time { return since.Add(2 * slack) })
			after := tt.after
			if after == nil {
				after = func() string {
					text, _, _ := unstructured.NestedString(get(t, admin, tt.kind, tt.name).Object, "spec", "rollout", "after")
					return text
				}
			}
			roll := func(want string) {
				t.Helper()
				must(0, r.Roll(t.Context(), since))
				if got := after(); got != want {
					t.Fatalf("rollout.after is %q, want %q", got, want)
				}
			}
			refused := func() {
				t.Helper()
				tt.take("argocd")
				err := r.Roll(t.Context(), since)
				_, blocked := errors.AsType[*controlplane.BlockedError](err)
				if !blocked || !strings.Contains(err.Error(), `"argocd"`) || !strings.Contains(err.Error(), tt.blocked) {
					t.Errorf("%v, want it to be blocked, to name argocd and %q", err, tt.blocked)
				}
				if got := after(); got != "" {
					t.Errorf("rollout.after is %q", got)
				}
			}
			const first, next = "2027-01-02T03:04:10Z", "2027-01-02T03:05:10Z"
			roll(first)
			refused()
			r.retry = "1"
			roll(first)
			refused()
			r.memory = &memory{} // a restart
			roll(first)
			refused()
			since = since.Add(time.Minute)
			roll(next)
		})
	}
}

var topologyDeployments = []string{"spec", "topology", "workers", "machineDeployments"}

func get(t *testing.T, admin client.Client, kind, name string) *unstructured.Unstructured {
	t.Helper()
	o := objectOf(kind)
	must(0, admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, o))
	return o
}

// TestRights names the right that the controller lacks for having machines replaced, before a rotation begins, and no
// later: a rotation that has begun goes on as far as it can.
func TestRights(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	kubetest.ServeKinds(t, config, coreVersion.Group, []string{coreVersion.Version}, "Cluster")
	kubetest.ServeKinds(t, config, controlPlaneVersion.Group, []string{coreVersion.Version}, controlPlaneKind)
	admin := must(client.New(config, client.Options{}))
	create(t, admin, fmt.Sprintf(clusterText, "prod", false, controlPlaneKind, "a"))
	create(t, admin, `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads, namespace: default}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: `+v1alpha1.ControllerUser+`}]
`)
	reader := must(client.New(kubetest.AsController(config), client.Options{}))
	const lacking = "may not update machinedeployments.cluster.x-k8s.io in namespace default: set clusterAPI.replaceNodes"
	for name, tt := range map[string]struct {
		refresh v1alpha1.NodeRefresh
		step    string
		client  client.Client
		want    string
	}{
		"evict":         {refresh: v1alpha1.NodeRefreshEvict, client: reader},
		"replace":       {refresh: v1alpha1.NodeRefreshReplace, client: reader, want: lacking},
		"has begun":     {refresh: v1alpha1.NodeRefreshReplace, client: reader, step: "Publish"},
		"has the right": {refresh: v1alpha1.NodeRefreshReplace, client: admin},
	} {
		t.Run(name, func(t *testing.T) {
			uc := adopted()
			uc.Spec.KSASigningKey.NodeRefresh, uc.Status.KSASigningKey.Step = tt.refresh, tt.step
			c := NewClusters(Options{Client: tt.client, Keys: &keystoretest.Memory{}, Prover: &controlplane.Prover{}}).Open(uc)
			c.kubeadmCluster = nothingSeen{}
			_, err := c.Observe(t.Context())
			if tt.want == "" && err != nil {
				t.Errorf("observing it: %v", err)
			}
			_, blocked := errors.AsType[*controlplane.BlockedError](err)
			if tt.want != "" && (!blocked || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("observing it: %v, want it to be blocked and to name %q", err, tt.want)
			}
		})
	}
}

// nothingSeen is a control plane in which nothing was found.
type nothingSeen struct{ kubeadmCluster }

func (nothingSeen) Observe(context.Context) (controlplane.State, error) {
	return controlplane.State{}, nil
}
