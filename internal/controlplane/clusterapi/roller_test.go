package clusterapi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const deploymentText = `apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {namespace: default, name: %[1]s, labels: {cluster.x-k8s.io/cluster-name: %[2]s%[3]s}}
spec: {%[4]s}
`

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
	r := &Roller{management: management{admin, "default", "one"}, client: admin, now: func() time.Time { return now }}

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

	must(0, r.Roll(t.Context(), since))
	after := "2027-01-02T03:04:05Z"
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
	r := &Roller{management: management{admin, "default", "one"}, client: admin, now: func() time.Time { return now }}
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
	r := &Roller{management: management{admin, "default", "classy"}, client: admin, now: func() time.Time { return now }}
	must(0, r.Roll(t.Context(), now))
	wantAfter(t, admin, "Cluster", "classy", "2027-01-02T03:04:05Z", "topology", "controlPlane")
	wantAfter(t, admin, controlPlaneKind, "classy", "")
	wantAfter(t, admin, deploymentKind, "classy-b", "")
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(coreVersion.WithKind("Cluster"))
	must(0, admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "classy"}, o))
	list, _, err := unstructured.NestedSlice(o.Object, "spec", "topology", "workers", "machineDeployments")
	const want = "[map[class:x name:a] map[class:x name:b rollout:map[after:2027-01-02T03:04:05Z]]]"
	if got := fmt.Sprint(list); err != nil || got != want {
		t.Errorf("the topology has %s, %v", got, err)
	}
}
