package controller

import (
	"fmt"
	"slices"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
)

// TestKeepRetired keeps the kid of a key version in the write that takes it from the stored ones.
func TestKeepRetired(t *testing.T) {
	uc := &v1alpha1.UserCluster{}
	status := &uc.Status
	for version := int32(1); version <= 30; version++ {
		status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{
			{Version: version, KeyID: "old"}, {Version: version + 1, KeyID: "new"},
		}
		keepRetired(uc, []keystore.KeyPair{{Version: int(version), KeyID: "old"}, {Version: int(version) + 1, KeyID: "new"}})
		if in := status.Infrastructure.Kubeadm; in != nil && len(in.Retired) > 0 &&
			in.Retired[len(in.Retired)-1].Version == version {
			t.Fatalf("key version %d is stored, and counts as retired", version)
		}
		keepRetired(uc, []keystore.KeyPair{{Version: int(version) + 1, KeyID: "new"}})
		keepRetired(uc, []keystore.KeyPair{{Version: int(version) + 1, KeyID: "new"}}) // the status was not written
	}
	got := status.Infrastructure.Kubeadm.Retired
	if len(got) != maxRetired || got[0].Version != 11 ||
		got[maxRetired-1] != (v1alpha1.RetiredKey{Version: 30, KeyID: "old"}) {
		t.Errorf("retired are %v", got)
	}
	if !slices.IsSortedFunc(got, func(a, b v1alpha1.RetiredKey) int { return int(a.Version - b.Version) }) {
		t.Errorf("not in order: %v", got)
	}
	before := len(got)
	keepRetired(uc, nil) // nothing could be listed, or all is deleted with the cluster
	if len(status.Infrastructure.Kubeadm.Retired) != before {
		t.Error("keys count as retired that nobody has retired")
	}
}

// TestAdoptedStatus wants the status to have the member that the spec has, also for clusters of Cluster API.
func TestAdoptedStatus(t *testing.T) {
	uc := &v1alpha1.UserCluster{}
	uc.Spec.Infrastructure.ClusterAPI = &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}
	uc.Status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{{Version: 1, KeyID: "old"}}
	keepRetired(uc, []keystore.KeyPair{{Version: 2, KeyID: "new"}})
	seen := observation{controlPlane: controlplane.State{Object: "prod-x7k2p"}}
	for i := range 30 {
		seen.controlPlane.LeftoverSecrets = append(seen.controlPlane.LeftoverSecrets, fmt.Sprintf("default/m-%d", 59-i))
	}
	setAdoptedStatus(uc, seen)
	setAdoptedStatus(uc, observation{}) // nobody could see it
	if got := uc.Status.Infrastructure.ClusterAPI.LeftoverSecrets; len(got) != maxLeftovers || got[0] != "default/m-30" {
		t.Errorf("left are %q", got)
	}
	in := uc.Status.Infrastructure
	if got := in.ClusterAPI.ControlPlane; got != "prod-x7k2p" {
		t.Errorf("the control plane is %q", got)
	}
	if in.Kubeadm != nil || in.ClusterAPI == nil || len(in.ClusterAPI.Retired) != 1 || in.Adopted() != in.ClusterAPI {
		t.Errorf("the status has %+v", in)
	}
}
