package controller

import (
	"cmp"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/printable"
)

// maxRetired and maxLeftovers are how many of them a status lists; maxPath is the longest path, in characters.
const (
	maxRetired   = 20
	maxLeftovers = 20
	maxPath      = 500
)

// adoptedStatus returns the status member that corresponds to the spec.
func adoptedStatus(uc *v1alpha1.UserCluster) *v1alpha1.KubeadmInfrastructureStatus {
	member := &uc.Status.Infrastructure.Kubeadm
	if uc.Spec.Infrastructure.ClusterAPI != nil {
		member = &uc.Status.Infrastructure.ClusterAPI
	}
	if *member == nil {
		*member = &v1alpha1.KubeadmInfrastructureStatus{}
	}
	return *member
}

// keepRetired records the key versions that the status lists as stored but that no longer are, before that list is
// replaced. One write contains both, so none gets lost.
func keepRetired(uc *v1alpha1.UserCluster, stored []keystore.KeyPair) {
	for _, k := range uc.Status.KSASigningKey.Keys {
		kept := slices.ContainsFunc(stored, func(s keystore.KeyPair) bool { return s.KeyID == k.KeyID })
		if kept || len(stored) == 0 {
			continue
		}
		in := adoptedStatus(uc)
		in.Retired = slices.DeleteFunc(in.Retired, func(r v1alpha1.RetiredKey) bool { return r.Version == k.Version })
		in.Retired = append(in.Retired, v1alpha1.RetiredKey{Version: k.Version, KeyID: k.KeyID})
		slices.SortFunc(in.Retired, func(a, b v1alpha1.RetiredKey) int { return cmp.Compare(a.Version, b.Version) })
		in.Retired = in.Retired[max(0, len(in.Retired)-maxRetired):]
	}
}

// setAdoptedStatus sets the name of the control plane and which private keys are left on nodes, if this round could
// observe them.
func setAdoptedStatus(uc *v1alpha1.UserCluster, seen observation) {
	if name := seen.controlPlane.Object; name != "" {
		secrets := slices.Sorted(slices.Values(seen.controlPlane.LeftoverSecrets))
		in := adoptedStatus(uc)
		in.ControlPlane, in.LeftoverSecrets = name, secrets[:min(len(secrets), maxLeftovers)]
	}
	if !seen.controlPlane.LeftoversKnown {
		return
	}
	in := adoptedStatus(uc)
	in.Leftovers = nil
	left := slices.Clone(seen.controlPlane.Leftovers)
	slices.SortFunc(left, func(a, b controlplane.Leftover) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Path, b.Path), cmp.Compare(a.KeyID, b.KeyID))
	})
	for _, l := range left[:min(len(left), maxLeftovers)] {
		in.Leftovers = append(in.Leftovers, v1alpha1.LeftoverKey{
			Node: printable.Text(l.Server, maxPath), Path: printable.Text(l.Path, maxPath),
			KeyID: printable.Text(l.KeyID, maxKeyID),
		})
	}
}
