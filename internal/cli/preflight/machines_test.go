package preflight

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestOfMachines names what keeps Cluster API from replacing machines, if a rotation has it replace them.
func TestOfMachines(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	const core, controlPlane = "cluster.x-k8s.io", "controlplane.cluster.x-k8s.io"
	versions := []string{"v1beta2"}
	kubetest.ServeKinds(t, config, core, versions, "Cluster", "MachineDeployment", "MachinePool")
	kubetest.ServeKinds(t, config, controlPlane, versions, "KubeadmControlPlane")
	admin, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := install.Decode([]byte(`apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {namespace: default, name: prod}
spec: {controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: KubeadmControlPlane, name: prod-1}}
---
apiVersion: controlplane.cluster.x-k8s.io/v1beta2
kind: KubeadmControlPlane
metadata: {namespace: default, name: prod-1, annotations: {cluster.x-k8s.io/paused: ""}}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachinePool
metadata: {namespace: default, name: spot, labels: {cluster.x-k8s.io/cluster-name: prod}}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {namespace: default, name: other, labels: {cluster.x-k8s.io/cluster-name: another}}
spec: {paused: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "prod"}}
	uc.Spec.Infrastructure.ClusterAPI = &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}
	of := func(kind, name, why string) Finding {
		return find(HeldMachines, Object{Kind: kind, Namespace: "default", Name: name}, why)
	}
	pool := of("MachinePool", "spot", "Cluster API has no rollout for it: have its infrastructure do it")
	for _, test := range []struct {
		name    string
		refresh v1alpha1.NodeRefresh
		method  v1alpha1.ClusterAPIMethod
		want    []Finding
	}{
		{"evicts pods", v1alpha1.NodeRefreshEvict, v1alpha1.MethodInPlace, nil},
		{"replaces all machines", v1alpha1.NodeRefreshReplace, v1alpha1.MethodInPlace, []Finding{
			of("KubeadmControlPlane", "prod-1", "it is paused"), pool,
		}},
		{"replaces workers", v1alpha1.NodeRefreshReplace, v1alpha1.MethodRollout, []Finding{pool}},
	} {
		uc.Spec.KSASigningKey.NodeRefresh, uc.Spec.Infrastructure.ClusterAPI.Method = test.refresh, test.method
		got, err := OfMachines(t.Context(), admin, uc)
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v: %s", test.name, err, diff)
		}
	}
	uc.Spec.Infrastructure.ClusterAPI.Cluster = "none"
	if got, err := OfMachines(t.Context(), admin, uc); err == nil {
		t.Errorf("of a Cluster that does not exist it found %v", got)
	}
	stranger, err := client.New(kubetest.AsController(config), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = OfMachines(t.Context(), stranger, uc)
	text := fmt.Sprint(err)
	if !strings.Contains(text, "cannot get resource") || strings.Contains(text, "replaceNodes") {
		t.Errorf("without rights it fails with %v, want what the user lacks, and nothing about the controller", err)
	}
}
