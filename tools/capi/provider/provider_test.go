package provider

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/tools/capi/api/v1alpha1"
)

// env is a management cluster that knows the kinds of Cluster API, without its managers: a test writes what they would.
type env struct {
	client.Client
	t    *testing.T
	host *Host
}

func start(t *testing.T) *env {
	t.Helper()
	module, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/cluster-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	definitions := filepath.Join(strings.TrimSpace(string(module)), "core/config/crd/bases")
	config := kubetest.Start(t, kubetest.Options{CRDPaths: []string{
		filepath.Join(definitions, "cluster.x-k8s.io_clusters.yaml"),
		filepath.Join(definitions, "cluster.x-k8s.io_machines.yaml"),
		"../config/crd",
	}})
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return &env{Client: c, t: t, host: &Host{
		DataDir: t.TempDir(), Networks: netip.MustParsePrefix("10.95.0.0/16"), Version: "v1.36.4",
	}}
}

func (e *env) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// cluster makes a Cluster whose LocalCluster is provisioned.
func (e *env) cluster(name string) (*clusterv1.Cluster, *v1alpha1.LocalCluster) {
	e.t.Helper()
	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: clusterv1.ClusterSpec{InfrastructureRef: clusterv1.ContractVersionedObjectReference{
			APIGroup: v1alpha1.GroupVersion.Group, Kind: "LocalCluster", Name: name,
		}},
	}
	e.must(e.Create(e.t.Context(), cluster))
	cluster.Status.Initialization.InfrastructureProvisioned = ptr.To(true)
	e.must(e.Status().Update(e.t.Context(), cluster))
	local := &v1alpha1.LocalCluster{
		ObjectMeta: e.owned(name, name, cluster, "Cluster"),
		Spec:       v1alpha1.LocalClusterSpec{ID: "id-of-" + name, Network: "10.95.3.0/24"},
	}
	e.must(e.Create(e.t.Context(), local))
	return cluster, local
}

// machine makes a Machine with its LocalMachine, and its bootstrap data unless that is empty.
func (e *env) machine(cluster, name, data string) (*clusterv1.Machine, *v1alpha1.LocalMachine) {
	e.t.Helper()
	owner := &clusterv1.Machine{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{clusterv1.ClusterNameLabel: cluster}},
		Spec: clusterv1.MachineSpec{
			ClusterName: cluster, Version: "v1.36.4",
			InfrastructureRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: v1alpha1.GroupVersion.Group, Kind: "LocalMachine", Name: name,
			},
			Bootstrap: clusterv1.Bootstrap{ConfigRef: clusterv1.ContractVersionedObjectReference{
				APIGroup: "bootstrap.cluster.x-k8s.io", Kind: "KubeadmConfig", Name: name,
			}},
		},
	}
	if data != "" {
		owner.Spec.Bootstrap.DataSecretName = ptr.To(name)
		e.must(e.Create(e.t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			StringData: map[string]string{"format": "cloud-config", "value": data},
		}))
	}
	e.must(e.Create(e.t.Context(), owner))
	local := &v1alpha1.LocalMachine{ObjectMeta: e.owned(name, cluster, owner, "Machine")}
	e.must(e.Create(e.t.Context(), local))
	return owner, local
}

func (e *env) owned(name, cluster string, owner client.Object, kind string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: "default", Name: name, Labels: map[string]string{clusterv1.ClusterNameLabel: cluster},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: clusterv1.GroupVersion.String(), Kind: kind, Name: owner.GetName(), UID: owner.GetUID(),
		}},
	}
}

// settle lets the controller of LocalMachines work until it changes nothing any more, and reads the LocalMachine again.
func (e *env) settle(local *v1alpha1.LocalMachine) {
	e.t.Helper()
	controller := &machines{Client: e, reader: e, host: e.host}
	for before := ""; before != local.ResourceVersion; {
		before = local.ResourceVersion
		_, err := controller.Reconcile(e.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(local)})
		e.must(err)
		e.must(e.Get(e.t.Context(), client.ObjectKeyFromObject(local), local))
	}
}

func (e *env) wantReason(local *v1alpha1.LocalMachine, reason, message string) {
	e.t.Helper()
	ready := conditions.Get(local, clusterv1.ReadyCondition)
	if ready == nil || ready.Status != metav1.ConditionFalse || ready.Reason != reason || !strings.Contains(ready.Message, message) {
		e.t.Errorf("Ready of %s is %+v, want %s: %s", local.Name, ready, reason, message)
	}
}

// TestMachinesThatAreNotMade names, for each, why no machine is made for it.
func TestMachinesThatAreNotMade(t *testing.T) {
	e := start(t)
	cluster, _ := e.cluster("a")

	_, local := e.machine("a", "without-data", "")
	e.settle(local)
	e.wantReason(local, v1alpha1.ReasonWaiting, "bootstrap data")

	_, local = e.machine("a", "invalid", "#cloud-config\nusers: [SECRET]\n")
	e.settle(local)
	e.wantReason(local, v1alpha1.ReasonInvalidBootstrapData, "users is not supported")
	if strings.Contains(conditions.Get(local, clusterv1.ReadyCondition).Message, "SECRET") {
		t.Error("the status has a part of the bootstrap data")
	}

	owner, local := e.machine("a", "old", "#cloud-config\n")
	owner.Spec.Version = "v1.35.1"
	e.must(e.Update(t.Context(), owner))
	e.settle(local)
	e.wantReason(local, v1alpha1.ReasonUnsupportedVersion, "have Kubernetes v1.36.4, not v1.35.1")

	cluster.Status.Initialization.InfrastructureProvisioned = nil
	e.must(e.Status().Update(t.Context(), cluster))
	_, local = e.machine("a", "too-early", "#cloud-config\n")
	e.settle(local)
	e.wantReason(local, v1alpha1.ReasonWaiting, "LocalCluster")
}

// TestPaused leaves a machine of a paused cluster as it is, also one that is deleted, as clusterctl move does.
func TestPaused(t *testing.T) {
	e := start(t)
	cluster, _ := e.cluster("a")
	_, local := e.machine("a", "m", "")
	e.settle(local)
	cluster.Spec.Paused = ptr.To(true)
	e.must(e.Update(t.Context(), cluster))
	e.must(e.Delete(t.Context(), local))
	e.settle(local)
	if !conditions.IsTrue(local, clusterv1.PausedCondition) || len(local.Finalizers) != 1 {
		t.Errorf("it has conditions %v and finalizers %v", local.Status.Conditions, local.Finalizers)
	}
	cluster.Spec.Paused = ptr.To(false)
	e.must(e.Update(t.Context(), cluster))
	controller := &machines{Client: e, reader: e, host: e.host}
	for range 2 { // the first time it only reports that it is not paused any more
		_, err := controller.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(local)})
		e.must(err)
	}
	if err := e.Get(t.Context(), client.ObjectKeyFromObject(local), local); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("it is there after its cluster is not paused any more: %v", err)
	}
}

// TestAnotherClustersID does not lead to the machines of that cluster, whoever writes it.
func TestAnotherClustersID(t *testing.T) {
	h := &Host{DataDir: t.TempDir(), Version: "v1.36.4"}
	spec := v1alpha1.LocalClusterSpec{ID: "a", Network: "10.95.3.0/24"}
	first := &v1alpha1.LocalCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"}, Spec: spec}
	for range 2 {
		if _, err := h.open(first); err != nil {
			t.Fatal(err)
		}
	}
	second := &v1alpha1.LocalCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "second"}, Spec: spec}
	if _, err := h.open(second); err == nil || !strings.Contains(err.Error(), "belongs to another LocalCluster") {
		t.Errorf("open = %v", err)
	}
}

func TestFreeNetwork(t *testing.T) {
	h := &Host{Networks: netip.MustParsePrefix("198.18.255.0/23")} // for benchmarks of networks: nobody has it
	var clusters []v1alpha1.LocalCluster
	for _, want := range []string{"198.18.254.0/24", "198.18.255.0/24"} {
		got, err := h.freeNetwork(clusters)
		if err != nil || got.String() != want {
			t.Errorf("freeNetwork = %s, %v, want %s", got, err, want)
		}
		clusters = append(clusters, v1alpha1.LocalCluster{Spec: v1alpha1.LocalClusterSpec{Network: want}})
	}
	if got, err := h.freeNetwork(clusters); err == nil || !strings.Contains(err.Error(), "no /24 of 198.18.255.0/23 is free") {
		t.Errorf("freeNetwork = %s, %v, want an error", got, err)
	}
}

// TestDefinitions creates objects that the definitions must refuse, since Cluster API or the controller would go wrong.
func TestDefinitions(t *testing.T) {
	e := start(t)
	for name, spec := range map[string]v1alpha1.LocalClusterSpec{
		"too large":  {Network: "10.95.0.0/16"},
		"no network": {Network: "10.95.3.1/24"},
		"a path":     {ID: "../a"},
	} {
		local := &v1alpha1.LocalCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Spec: spec}
		if err := e.Create(t.Context(), local); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	_, local := e.cluster("b")
	local.Spec.ID = "another"
	if err := e.Update(t.Context(), local); err == nil || !strings.Contains(err.Error(), "is immutable") {
		t.Errorf("changing the id: %v", err)
	}
}
