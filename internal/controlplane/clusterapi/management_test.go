package clusterapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestAmend adds machines that are to come and marks those that go.
func TestAmend(t *testing.T) {
	found := kubeadm.Found{
		Servers:  []kubeadm.Server{{Node: "a"}, {Node: "b"}, {Node: "same"}},
		Managers: []kubeadm.Manager{{Node: "a"}, {Node: "b"}},
	}
	amend([]machine{
		{name: "m-a", data: "a", node: "a"},
		{name: "m-b", data: "b", node: "b", leaving: true},
		{name: "same", data: "c"},
		{name: "coming", data: "d"},
		{name: "without data"},
		{name: "without data, and never", leaving: true},
		{name: "never came", data: "e", leaving: true},
	}, &found)
	want := kubeadm.Found{
		Servers: []kubeadm.Server{
			{Node: "a"}, {Node: "b", Leaving: true}, {Node: "same"},
			{Node: "coming", Waiting: "Machine coming has its bootstrap data and is to become a node"},
			{Node: "without data", Waiting: "Machine without data is to get its bootstrap data and to become a node"},
		},
		Managers: []kubeadm.Manager{{Node: "a"}, {Node: "b"}},
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}

// TestOrphanedNode is one that Cluster API left behind. A node that may be that of a machine which is to come is none.
func TestOrphanedNode(t *testing.T) {
	for _, test := range []struct {
		name     string
		machines []machine
		want     bool
	}{
		{"of a machine that is gone", []machine{{name: "m-a", data: "a", node: "a"}}, true},
		{"perhaps of one to come", []machine{{name: "m-a", data: "a", node: "a"}, {name: "m-b", data: "b"}}, false},
		{"of a machine with its name", []machine{{name: "b"}}, false},
		{"none that has started", []machine{{name: "m-b"}}, true},
		{"where machines are not seen", nil, false},
	} {
		found := kubeadm.Found{Servers: []kubeadm.Server{{Node: "a"}, {Node: "b"}}}
		amend(test.machines, &found)
		if got := found.Servers[1].Leaving; got != test.want {
			t.Errorf("%s: found %+v", test.name, found.Servers)
		}
	}
}

// startManagement starts an API server that serves these kinds in any form.
func startManagement(t *testing.T, kinds ...string) client.Client {
	t.Helper()
	config := kubetest.Start(t, kubetest.Options{})
	for _, kind := range kinds {
		group := coreVersion.Group
		if kind == controlPlaneKind {
			group = controlPlaneVersion.Group
		}
		kubetest.ServeKinds(t, config, group, []string{coreVersion.Version}, kind)
	}
	return must(client.New(config, client.Options{}))
}

const clusterText = `apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {namespace: default, name: %[1]s}
spec: {paused: %[2]t, controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: %[3]s, name: %[1]s}}
---
apiVersion: controlplane.cluster.x-k8s.io/v1beta2
kind: KubeadmControlPlane
metadata: {namespace: default, name: %[1]s, annotations: {%[4]s: ""}}
`

const machineText = `apiVersion: cluster.x-k8s.io/v1beta2
kind: Machine
metadata: {namespace: default, name: %[1]s, labels: {%[2]s, cluster.x-k8s.io/cluster-name: %[3]s}}
spec: {bootstrap: {dataSecretName: %[1]s}}
status: {nodeRef: {name: node-of-%[1]s}}
`

func create(t *testing.T, admin client.Client, text string) {
	t.Helper()
	for _, o := range must(install.Decode([]byte(text))) {
		for { // a definition is served a moment after it was made
			err := admin.Create(t.Context(), o.DeepCopy())
			if err == nil {
				break
			}
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestManagement reads objects of Cluster API from an API server.
func TestManagement(t *testing.T) {
	admin := startManagement(t, "Cluster", "Machine", controlPlaneKind)
	create(t, admin, fmt.Sprintf(clusterText, "one", false, controlPlaneKind, "a"))
	create(t, admin, fmt.Sprintf(clusterText, "paused", true, controlPlaneKind, "a"))
	create(t, admin, fmt.Sprintf(clusterText, "held", false, controlPlaneKind, pausedAnnotation))
	create(t, admin, fmt.Sprintf(clusterText, "other", false, "TalosControlPlane", "a"))
	create(t, admin, fmt.Sprintf(machineText, "cp-1", controlPlaneLabel+`: ""`, "one"))
	create(t, admin, fmt.Sprintf(machineText, "cp-2", controlPlaneLabel+`: ""`, "paused"))
	create(t, admin, fmt.Sprintf(machineText, "worker", "a: b", "one"))
	for name, tt := range map[string]struct{ waiting, blocked string }{
		"one":    {},
		"paused": {waiting: "Cluster default/paused not to be paused"},
		"held":   {waiting: "KubeadmControlPlane default/held not to be paused"},
		"other":  {blocked: "is a TalosControlPlane"},
		"none":   {blocked: "does not exist"},
	} {
		m := management{admin, "default", name}
		waiting, err := m.waiting(t.Context())
		if waiting != tt.waiting || (err != nil) != (tt.blocked != "") {
			t.Errorf("Cluster %s waits for %q, %v; want %q", name, waiting, err, tt.waiting)
		}
		_, blocked := errors.AsType[*controlplane.BlockedError](err)
		if err != nil && (!blocked || !strings.Contains(err.Error(), tt.blocked)) {
			t.Errorf("Cluster %s: %v, want it to be blocked and to name %q", name, err, tt.blocked)
		}
		if isGone(err) != (name == "none") {
			t.Errorf("Cluster %s is gone: %t", name, isGone(err))
		}
	}
	machines, err := management{admin, "default", "one"}.machines(t.Context())
	want, born := []machine{{name: "cp-1", data: "cp-1", node: "node-of-cp-1"}}, cmpopts.IgnoreFields(machine{}, "created")
	if diff := cmp.Diff(want, machines, cmp.AllowUnexported(machine{}), born); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestWithoutClusterAPI has a cluster without it.
func TestWithoutClusterAPI(t *testing.T) {
	_, err := management{startManagement(t), "default", "one"}.waiting(t.Context())
	_, blocked := errors.AsType[*controlplane.BlockedError](err)
	if !blocked || !strings.Contains(err.Error(), "does not serve Cluster API") {
		t.Errorf("%v, want it to be blocked", err)
	}
}

// TestLeftovers lists bootstrap data that may hold the key that the last rotation retired.
func TestLeftovers(t *testing.T) {
	admin := startManagement(t, "Cluster", "Machine", controlPlaneKind)
	create(t, admin, fmt.Sprintf(machineText, "cp-1", controlPlaneLabel+`: ""`, "prod"))
	create(t, admin, fmt.Sprintf(machineText, "other", controlPlaneLabel+`: ""`, "other"))
	create(t, admin, fmt.Sprintf(machineText, "worker", "a: b", "prod"))
	made := get(t, admin, "Machine", "cp-1").GetCreationTimestamp()
	before, after := metav1.NewTime(made.Add(-time.Minute)), metav1.NewTime(made.Add(time.Minute))
	ended := func(refresh metav1.Time) v1alpha1.RotationStatus {
		return v1alpha1.RotationStatus{CompletedAt: &after, Steps: []v1alpha1.RotationStep{
			{Name: "Publish", StartedAt: before}, {Name: "Refresh", StartedAt: refresh}, {Name: "Retire", StartedAt: after},
		}}
	}
	runs := ended(after)
	runs.CompletedAt = nil
	for name, tt := range map[string]struct {
		rotations []v1alpha1.RotationStatus
		want      []string
	}{
		"no rotation":        {nil, nil},
		"one that runs":      {[]v1alpha1.RotationStatus{runs}, nil},
		"one that has ended": {[]v1alpha1.RotationStatus{ended(after)}, []string{"default/cp-1"}},
		"one that was older": {[]v1alpha1.RotationStatus{ended(before)}, nil},
		"one that has ended, one later": {
			[]v1alpha1.RotationStatus{ended(before), ended(after), runs}, []string{"default/cp-1"},
		},
	} {
		uc := adopted()
		uc.Status.KSASigningKey.Rotations = tt.rotations
		c := &Cluster{uc: uc, management: managementOf(admin, uc)}
		if got := must(c.leftovers(t.Context())); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
