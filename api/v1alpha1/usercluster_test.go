package v1alpha1_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func TestDefaults(t *testing.T) {
	uc := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "keyturn.dev/v1alpha1",
		"kind":       "UserCluster",
		"metadata":   map[string]any{"namespace": v1alpha1.SystemNamespace, "name": "defaults"},
		"spec": map[string]any{
			"infrastructure": map[string]any{"local": map[string]any{
				"kubernetesVersion": "v1.36.4",
				"network":           map[string]any{"serviceCIDR": "10.96.0.0/20", "podCIDR": "192.168.0.0/16"},
				"controlPlane":      map[string]any{"replicas": 1},
				"nodePools":         []any{map[string]any{"name": "pool-1", "replicas": 2}},
			}},
			"gkeConnect": map[string]any{"projectID": "project-1", "location": "global"},
		},
	}}
	if err := admin.Create(t.Context(), uc, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"infrastructure": map[string]any{"local": map[string]any{
			"kubernetesVersion": "v1.36.4",
			"network":           map[string]any{"serviceCIDR": "10.96.0.0/20", "podCIDR": "192.168.0.0/16"},
			"controlPlane":      map[string]any{"replicas": int64(1)},
			"nodePools":         []any{map[string]any{"name": "pool-1", "replicas": int64(2), "maxSurge": int64(1)}},
		}},
		"enableAdvancedCluster": false,
		"ksaSigningKey": map[string]any{
			"version": int64(1), "algorithm": "RS256", "tokenReloadSeconds": int64(300),
			"retire": "AfterRefresh", "retireTimeoutSeconds": int64(86400),
			"issuer": "https://kubernetes.default.svc.cluster.local", "publishMaxAgeSeconds": int64(60),
		},
		"gkeConnect": map[string]any{"projectID": "project-1", "location": "global", "endpoint": "", "stsEndpoint": ""},
	}
	if diff := cmp.Diff(want, uc.Object["spec"]); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

const inLocal = "spec.infrastructure.local"

// local is the infrastructure of uc, and inLocal its path.
func local(uc *v1alpha1.UserCluster) *v1alpha1.LocalInfrastructure {
	return uc.Spec.Infrastructure.Local
}

// adopted makes uc a cluster that kubeadm made, with the key that this has.
func adopted(uc *v1alpha1.UserCluster) *v1alpha1.UserClusterSpec {
	uc.Spec.Infrastructure = v1alpha1.Infrastructure{
		Kubeadm: &v1alpha1.KubeadmInfrastructure{KubeconfigSecret: "it-kubeconfig"},
	}
	uc.Spec.KSASigningKey.Source, uc.Spec.KSASigningKey.NodeRefresh = "", ""
	return &uc.Spec
}

// rollingOut makes it a cluster of Cluster API whose machines are replaced.
func rollingOut(uc *v1alpha1.UserCluster) *v1alpha1.UserClusterSpec {
	adopted(uc).Infrastructure = v1alpha1.Infrastructure{
		ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod", Method: v1alpha1.MethodRollout},
	}
	return &uc.Spec
}

func TestCreate(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*v1alpha1.UserCluster)
		wantErr string
	}{
		{"valid", func(*v1alpha1.UserCluster) {}, ""},
		{"longest name", func(uc *v1alpha1.UserCluster) { uc.Name = strings.Repeat("a", 40) }, ""},
		{
			"name too long", func(uc *v1alpha1.UserCluster) { uc.Name = strings.Repeat("a", 41) },
			"name must be a DNS label of at most 40 characters",
		},
		{"name with a dot", func(uc *v1alpha1.UserCluster) { uc.Name = "a.b" }, "name must be a DNS label"},
		{"name with a digit first", func(uc *v1alpha1.UserCluster) { uc.Name = "1a" }, "begins with a letter"},
		{"no infrastructure", func(uc *v1alpha1.UserCluster) {
			uc.Spec.Infrastructure.Local = nil
		}, "spec.infrastructure: Invalid value: exactly one of the fields in [local kubeadm clusterAPI] must be set"},
		{"kubeadm", func(uc *v1alpha1.UserCluster) { adopted(uc) }, ""},
		{"clusterAPI", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}}
		}, ""},
		{"clusterAPI, no name of a Cluster", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{}}
		}, "spec.infrastructure.clusterAPI.cluster"},
		{"two infrastructures", func(uc *v1alpha1.UserCluster) {
			uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{}
		}, "spec.infrastructure: Invalid value: exactly one of the fields in [local kubeadm clusterAPI] must be set"},
		{"kubeadm, with new nodes", func(uc *v1alpha1.UserCluster) {
			adopted(uc).KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshReplace
		}, "ksaSigningKey.nodeRefresh must be Evict or Wait"},
		{"kubeadm, whose pods stay", func(uc *v1alpha1.UserCluster) {
			adopted(uc).KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshWait
		}, ""},
		{"clusterAPI, with new nodes", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}}
			uc.Spec.KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshReplace
		}, ""},
		{"clusterAPI, with new machines", func(uc *v1alpha1.UserCluster) { rollingOut(uc) }, ""},
		{"clusterAPI, with new machines and signers", func(uc *v1alpha1.UserCluster) {
			rollingOut(uc).KSASigningKey.Source = v1alpha1.KeySourceExternal
		}, "ksaSigningKey.source must be files with infrastructure.clusterAPI.method Rollout"},
		{"clusterAPI, by an unknown method", func(uc *v1alpha1.UserCluster) {
			rollingOut(uc).Infrastructure.ClusterAPI.Method = "Magic"
		}, "spec.infrastructure.clusterAPI.method"},
		{"kubeadm, retired when unused", func(uc *v1alpha1.UserCluster) {
			adopted(uc).KSASigningKey.Retire = v1alpha1.RetireWhenUnused
		}, "ksaSigningKey.retire WhenUnused needs source external"},
		{"kubeadm, no name of a Secret", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure.Kubeadm.KubeconfigSecret = "a/b"
		}, "spec.infrastructure.kubeadm.kubeconfigSecret"},
		{"kubeadm, in another directory", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure.Kubeadm.CertificatesDir = "/etc/kubernetes/ssl"
		}, ""},
		{"kubeadm, in no directory", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure.Kubeadm.CertificatesDir = "/etc/kubernetes/../ssl"
		}, "spec.infrastructure.kubeadm.certificatesDir"},
		{"kubeadm, in the directory of the signer", func(uc *v1alpha1.UserCluster) {
			adopted(uc).Infrastructure.Kubeadm.CertificatesDir = "/var/lib/keyturn"
		}, "kubeadm.certificatesDir is a directory of other files"},
		{"version 0", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Version = 0 }, "spec.ksaSigningKey.version"},
		{
			"version 2", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Version = 2 },
			"ksaSigningKey.version of a new cluster must be 1",
		},
		{
			"unknown source", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Source = "floppy" },
			`supported values: "external", "files"`,
		},
		{
			"unknown refresh", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.NodeRefresh = "Never" },
			`supported values: "Replace", "InPlace", "Wait", "Evict"`,
		},
		{
			"tokens are read at once", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.TokenReloadSeconds = -1 },
			"spec.ksaSigningKey.tokenReloadSeconds",
		},
		{
			"unknown time to retire", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Retire = "Never" },
			`supported values: "AfterRefresh", "WhenUnused"`,
		},
		{"retire when unused", func(uc *v1alpha1.UserCluster) {
			uc.Spec.KSASigningKey.Source, uc.Spec.KSASigningKey.Retire = v1alpha1.KeySourceExternal, v1alpha1.RetireWhenUnused
		}, ""},
		{"retire when unused, without ledgers", func(uc *v1alpha1.UserCluster) {
			uc.Spec.KSASigningKey.Source, uc.Spec.KSASigningKey.Retire = v1alpha1.KeySourceFiles, v1alpha1.RetireWhenUnused
		}, "ksaSigningKey.retire WhenUnused needs source external"},
		{
			"retire after too long", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.RetireTimeoutSeconds = 31536001 },
			"spec.ksaSigningKey.retireTimeoutSeconds",
		},
		{
			"unknown algorithm", func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Algorithm = "HS256" },
			`supported values: "RS256", "ES256"`,
		},
		{
			"two API servers", func(uc *v1alpha1.UserCluster) { local(uc).ControlPlane.Replicas = 2 },
			inLocal + ".controlPlane.replicas",
		},
		{
			"bad Kubernetes version", func(uc *v1alpha1.UserCluster) { local(uc).KubernetesVersion = "1.36" },
			inLocal + ".kubernetesVersion",
		},
		{
			"no service CIDR", func(uc *v1alpha1.UserCluster) { local(uc).Network.ServiceCIDR = "" },
			inLocal + ".network.serviceCIDR",
		},
		{"no pod CIDR", func(uc *v1alpha1.UserCluster) { local(uc).Network.PodCIDR = "" }, inLocal + ".network.podCIDR"},
		{
			"bad pool name", func(uc *v1alpha1.UserCluster) { local(uc).NodePools[0].Name = "Pool_1" },
			inLocal + ".nodePools[0].name",
		},
		{"same pool twice", func(uc *v1alpha1.UserCluster) {
			local(uc).NodePools = append(local(uc).NodePools, local(uc).NodePools[0])
		}, "Duplicate value"},
		{
			"negative replicas", func(uc *v1alpha1.UserCluster) { local(uc).NodePools[0].Replicas = -1 },
			inLocal + ".nodePools[0].replicas",
		},
		{
			"too many replicas", func(uc *v1alpha1.UserCluster) { local(uc).NodePools[0].Replicas = 101 },
			inLocal + ".nodePools[0].replicas",
		},
		{
			"no surge", func(uc *v1alpha1.UserCluster) { local(uc).NodePools[0].MaxSurge = 0 },
			inLocal + ".nodePools[0].maxSurge",
		},
		{"too many pools", func(uc *v1alpha1.UserCluster) {
			for r := range int32(33) {
				local(uc).NodePools = append(local(uc).NodePools,
					v1alpha1.NodePool{Name: "p" + strings.Repeat("a", int(r)), MaxSurge: 1})
			}
		}, "must have at most 32 items"},
	} {
		t.Run(test.name, func(t *testing.T) {
			uc := newCluster("create")
			test.change(uc)
			checkErr(t, admin.Create(t.Context(), uc, client.DryRunAll), test.wantErr)
		})
	}
}

// TestTransitions is about changes that the CustomResourceDefinition itself allows or not, of a cluster
// on which no other change is going on.
func TestTransitions(t *testing.T) {
	uc := createCluster(t, nil)
	finish(t, uc)
	rotate(t, uc)
	finish(t, uc)
	for _, test := range []struct {
		name    string
		change  func(*v1alpha1.UserClusterSpec)
		wantErr string
	}{
		{
			"version 2 to 1", func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Version = 1 },
			"ksaSigningKey.version can only be raised by one",
		},
		{"version 2 to 3", func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Version = 3 }, ""},
		{
			"version 2 to 4", func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Version = 4 },
			"ksaSigningKey.version can only be raised by one",
		},
		{"algorithm", func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Algorithm = v1alpha1.ES256 }, ""},
		{"source", func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Source = v1alpha1.KeySourceExternal }, ""},
		{"refresh", func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshInPlace }, ""},
		{"infrastructure", func(s *v1alpha1.UserClusterSpec) {
			s.Infrastructure = v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{}}
		}, "spec.infrastructure: Invalid value: infrastructure cannot be changed to another one"},
		{
			"Kubernetes version", func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.KubernetesVersion = "v1.36.5" },
			"kubernetesVersion cannot be changed",
		},
		{
			"advanced", func(s *v1alpha1.UserClusterSpec) { s.EnableAdvancedCluster = true },
			"enableAdvancedCluster cannot be changed",
		},
		{
			"network", func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.Network.PodCIDR = "10.0.0.0/8" },
			"network cannot be changed",
		},
		{
			"control plane", func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.ControlPlane.Replicas = 1 },
			"controlPlane cannot be changed",
		},
		{"replicas", func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.NodePools[0].Replicas = 5 }, ""},
		{"new pool", func(s *v1alpha1.UserClusterSpec) {
			s.Infrastructure.Local.NodePools = append(s.Infrastructure.Local.NodePools,
				v1alpha1.NodePool{Name: "pool-2", Replicas: 1, MaxSurge: 1})
		}, ""},
		{"no pools", func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.NodePools = nil }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := uc.DeepCopy()
			test.change(&changed.Spec)
			checkErr(t, admin.Update(t.Context(), changed, client.DryRunAll), test.wantErr)
		})
	}
}

func TestStatusIsKeptApart(t *testing.T) {
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) { uc.Status.Endpoint = "https://of.a.user" })
	if uc.Status.Endpoint != "" {
		t.Errorf("a new cluster has the status that its user wrote")
	}
}

// TestColumns has kubectl print clusters of each infrastructure.
func TestColumns(t *testing.T) {
	for infrastructure, change := range map[string]func(*v1alpha1.UserCluster){
		"local": nil, "kubeadm": func(uc *v1alpha1.UserCluster) { adopted(uc) },
		"clusterAPI": func(uc *v1alpha1.UserCluster) { rollingOut(uc) },
	} {
		uc := createCluster(t, change)
		uc.Status.KSASigningKey.Step = "Publish"
		uc.Status.Infrastructure.Type = uc.Spec.Infrastructure.Name()
		writeStatus(t, uc, conditions(uc, metav1.ConditionTrue, metav1.ConditionFalse))
		out := newRecovery(t, "").must("get usercluster " + uc.Name + " --no-headers")
		want := []string{uc.Name, infrastructure, "True", "1", "False", "Publish"}
		if got := strings.Fields(out); len(got) != len(want)+1 || !slices.Equal(got[:len(want)], want) {
			t.Errorf("columns = %q, want %q and the age", got, want)
		}
	}
}

// TestFullStatus writes a status with every field, as the controller does.
func TestFullStatus(t *testing.T) {
	uc := createCluster(t, nil)
	now := metav1.Now().Rfc3339Copy()
	uc.Status = v1alpha1.UserClusterStatus{
		ObservedGeneration: uc.Generation,
		Conditions:         conditions(uc, metav1.ConditionTrue, metav1.ConditionTrue),
		KSASigningKey: v1alpha1.KSASigningKeyStatus{
			TokenVersion: 1, PrivateKeyVersion: 1, PublicKeyVersions: []int32{1, 2},
			Step: "Publish", StepSince: &now, WaitingFor: "API server 2", StartedAt: &now, CompletedAt: &now,
			LegacyTokens: v1alpha1.LegacyTokenStatus{Total: 7, Stale: 3},
			Keys:         []v1alpha1.KeyVersionStatus{{Version: 1, KeyID: "kid", Algorithm: v1alpha1.RS256, CreatedAt: now}},
		},
		Infrastructure: v1alpha1.InfrastructureStatus{Type: "local", Local: &v1alpha1.LocalInfrastructureStatus{Home: "id"}},
		Endpoint:       "https://127.0.0.1:6443",
		APIServers: []v1alpha1.APIServerStatus{
			{Name: "1", Endpoint: "https://127.0.0.1:6444", Ready: true, SigningVersion: 1, AcceptedVersions: []int32{1}},
		},
		Publications: []v1alpha1.PublicationStatus{
			{Name: "fleet membership projects/p/locations/l/memberships/m", AcceptedVersions: []int32{1, 2}, PublishedAt: &now},
			{Name: "s3://bucket", WaitingFor: "bucket to exist"},
		},
		NodePools: []v1alpha1.NodePoolStatus{{Name: "pool-1", Replicas: 2, Ready: 1, Updated: 0}},
	}
	want := uc.Status.DeepCopy()
	replaceStatus(t, uc)
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &uc.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}
