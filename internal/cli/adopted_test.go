package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/adoption"
	"github.com/keyturn/keyturn/internal/cli/preflight"
)

// golden compares a text with a file in testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// adopted returns a cluster that kubeadm made, with so many API servers.
func adopted(servers int) *v1alpha1.UserCluster {
	uc := &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Name: "prod"},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{
				KubeconfigSecret: "prod-adopted-kubeconfig", ShutdownSendRetryAfter: true,
			}},
			KSASigningKey: v1alpha1.KSASigningKey{Version: 1, Algorithm: v1alpha1.RS256},
		},
	}
	for i := range servers {
		uc.Status.APIServers = append(uc.Status.APIServers, v1alpha1.APIServerStatus{
			Name: "cp-" + string(rune('1'+i)), Endpoint: "https://10.0.0.1:6443", Ready: true, SigningVersion: 1,
			AcceptedVersions: []int32{1},
		})
	}
	return uc
}

// TestAdoptionPreview shows what gkectl adopt found.
func TestAdoptionPreview(t *testing.T) {
	expires := time.Date(2027, 11, 27, 0, 0, 0, 0, time.UTC)
	const kid = "5ZFDpHH8pIgx5AVrLbmTWqHOJk8o0cYzX1kCmcN2Xqs"
	found := adoption.Report{
		Endpoint: "https://10.0.0.10:6443", Issuer: v1alpha1.DefaultIssuer, SigningKeyID: kid, Algorithm: "RS256",
		Servers: []adoption.Server{
			{Node: "cp-1", Address: "10.0.0.1", Version: "v1.36.4", SigningKeyID: kid, AcceptedKeyIDs: []string{kid}},
			{Node: "cp-2", Address: "10.0.0.2", Version: "v1.36.4", SigningKeyID: kid, AcceptedKeyIDs: []string{kid, "another"}},
		},
		Warnings: []string{"API servers accept 1 more keys"},
	}
	broken := found
	broken.Issuer, broken.SigningKeyID, broken.Algorithm = "", "", ""
	broken.Servers = []adoption.Server{{Node: "cp-1", Address: "10.0.0.1"}}
	broken.Problems, broken.Warnings = []string{"the API server on node cp-1 does not answer alone"}, nil
	single := found
	single.Servers, single.Warnings = found.Servers[:1], nil
	for name, p := range map[string]adoptionPreview{
		"adopt-files.txt": {
			Cluster: "prod", Report: found, KeySource: v1alpha1.KeySourceFiles, KubeconfigExpires: &expires,
			KubeconfigSecret: "prod-adopted-kubeconfig", storesKubeconfig: true,
		},
		"adopt-external.txt": {Cluster: "prod", Report: single, KeySource: v1alpha1.KeySourceExternal},
		"adopt-problem.txt":  {Cluster: "prod", Report: broken, KeySource: v1alpha1.KeySourceFiles},
	} {
		p.Namespace, p.update = v1alpha1.SystemNamespace, gkectl.update
		var out bytes.Buffer
		if err := p.write(&out); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
}

// TestAdoptedPreview shows what a rotation of adopted clusters does.
func TestAdoptedPreview(t *testing.T) {
	external := adopted(3)
	external.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	external.Spec.KSASigningKey.Retire, external.Spec.KSASigningKey.RetireTimeoutSeconds = v1alpha1.RetireWhenUnused, 3600
	slow := adopted(3)
	slow.Spec.Infrastructure.Kubeadm.ShutdownSendRetryAfter = false
	for name, uc := range map[string]*v1alpha1.UserCluster{
		"rotate-three.txt": adopted(3), "rotate-one.txt": adopted(1), "rotate-slow.txt": slow,
		"rotate-external.txt": external,
	} {
		p := newPreview(uc, preflight.Report{
			Nodes: []preflight.Node{{Name: "cp-1", ControlPlane: true}, {Name: "w-1"}}, Holders: 7, ControlPlaneHolders: 2,
		})
		var out bytes.Buffer
		writePreview(&out, uc, p, nil)
		golden(t, name, out.String())
	}
	var out bytes.Buffer
	o := output{form: "json"}
	if err := o.write(&out, newPreview(adopted(1), preflight.Report{}), nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "rotate-one.json", out.String())
}

// TestPreviewOfAHostileCluster quotes an API server that wants to draw on the administrator's terminal.
func TestPreviewOfAHostileCluster(t *testing.T) {
	var out bytes.Buffer
	p := newPreview(adopted(1), preflight.Report{})
	p.unread = errors.New("\x1b[2Jnor\nthese")
	writePreview(&out, adopted(1), p, errors.New("\x1b[2Jno\nEverything is fine"))
	const want = "warning: what keeps Cluster API from replacing machines cannot be shown: [2Jnor these\n" +
		"warning: what it does to nodes, tokens and pods cannot be shown: [2Jno Everything is fine\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("the preview ends with %q, want %q", out.String(), want)
	}
}

// TestDescribeAdopted lists and describes an adopted cluster without anything about node pools.
func TestDescribeAdopted(t *testing.T) {
	a, out, _ := testEnv()
	uc := adopted(3)
	uc.Status.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructureStatus{
		Leftovers: []v1alpha1.LeftoverKey{{Node: "cp-2", Path: "/etc/kubernetes/pki/sa.key.old", KeyID: "abc"}},
	}
	uc.CreationTimestamp = metav1.NewTime(a.Now().Add(-time.Hour))
	if err := a.clusterTable(out, []v1alpha1.UserCluster{*uc}, false); err != nil {
		t.Fatal(err)
	}
	if err := a.describeOne(out, uc); err != nil {
		t.Fatal(err)
	}
	golden(t, "describe-adopted.txt", out.String())
	if s := rotationOf(uc); len(s.Leftovers) != 1 {
		t.Errorf("status shows the leftovers %v", s.Leftovers)
	}
	own := adopted(1)
	own.Status.Infrastructure.ClusterAPI = &v1alpha1.KubeadmInfrastructureStatus{LeftoverSecrets: []string{"default/cp-1"}}
	if err := a.describeLeftovers(out, own); err != nil || !strings.HasSuffix(out.String(), ":\n  default/cp-1\n") {
		t.Errorf("describe shows, with %v:\n%s", err, out)
	}
	if s := rotationOf(own); len(s.LeftoverSecrets) != 1 {
		t.Errorf("status shows the Secrets %v", s.LeftoverSecrets)
	}
	own.Spec.Infrastructure.Kubeadm.KubeconfigSecret = ""
	out.Reset()
	if err := a.describeCluster(out, own); err != nil || !strings.Contains(out.String(),
		"the cluster that the controller runs in") {
		t.Errorf("describe shows, with %v:\n%s", err, out)
	}
}

func TestRelease(t *testing.T) {
	const question = "Release user cluster prod? It runs on with the key that it has, and Keyturn deletes its copies of " +
		"the keys."
	for want, uc := range map[string]*v1alpha1.UserCluster{
		question: adopted(3),
		question + " " +
			"First its API servers read files again, which restarts the only API server once, for 36 to 46 s: " +
			"THE KUBERNETES API IS AWAY meanwhile.": func() *v1alpha1.UserCluster {
			uc := adopted(1)
			uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
			return uc
		}(),
	} {
		if got := deletion(uc); got != want {
			t.Errorf("gkectl asks %q, want %q", got, want)
		}
	}
}

// TestClusterAPIChanges compares what can and what cannot change of a cluster of Cluster API.
func TestClusterAPIChanges(t *testing.T) {
	old, wanted := adopted(3), adopted(3)
	old.Spec.Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{
		Cluster: "prod", Method: v1alpha1.MethodInPlace, ShutdownSendRetryAfter: true,
	}}
	wanted.Spec.Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{
		Cluster: "prod", Method: v1alpha1.MethodRollout,
	}}
	fixed, updates := changes(old, wanted)
	wantFixed := []string{"infrastructure.clusterAPI.method: InPlace -> Rollout"}
	wantUpdates := []string{"~ infrastructure.clusterAPI.shutdownSendRetryAfter: true -> false"}
	if diff := cmp.Diff([][]string{wantFixed, wantUpdates}, [][]string{fixed, updates}); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// TestAdoptedChanges compares what can and what cannot change of an adopted cluster.
func TestAdoptedChanges(t *testing.T) {
	old, wanted := adopted(3), adopted(3)
	wanted.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{KubeconfigSecret: "other"}
	wanted.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	fixed, updates := changes(old, wanted)
	wantFixed := []string{"infrastructure.kubeadm.kubeconfigSecret: prod-adopted-kubeconfig -> other"}
	wantUpdates := []string{
		"~ infrastructure.kubeadm.shutdownSendRetryAfter: true -> false",
		"~ ksaSigningKey.source: files -> external (restarts 3 API servers once, one at a time, each for 36 to 46 s)",
	}
	if diff := cmp.Diff([][]string{wantFixed, wantUpdates}, [][]string{fixed, updates}); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}
