package preflight

import (
	"fmt"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// OfAlgorithm finds verifiers outside the cluster that may refuse the algorithm of the next key: destinations that the
// keys are published to while the key in use is an RSA key.
func OfAlgorithm(uc *v1alpha1.UserCluster) []Finding {
	next := uc.Spec.KSASigningKey.Algorithm
	if next == v1alpha1.RS256 || inUse(uc) != v1alpha1.RS256 {
		return nil
	}
	change := fmt.Sprintf("%s -> %s", v1alpha1.RS256, next)
	var all []Finding
	if g := uc.Spec.GKEConnect; g != nil {
		name := fmt.Sprintf("projects/%s/locations/%s/memberships/%s", g.ProjectID, g.Location, uc.Name)
		all = append(all, find(RefusedAlgorithm, Object{Kind: "Membership", Name: name}, change))
	}
	for _, url := range uc.Spec.KSASigningKey.Publish {
		all = append(all, find(RefusedAlgorithm, Object{Kind: "URL", Name: url}, change))
	}
	return all
}

// inUse returns the algorithm of the newest stored key, or the default if none is known.
func inUse(uc *v1alpha1.UserCluster) v1alpha1.Algorithm {
	keys := uc.Status.KSASigningKey.Keys
	if len(keys) == 0 {
		return v1alpha1.RS256
	}
	return keys[len(keys)-1].Algorithm
}
