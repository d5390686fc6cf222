package controller_test

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
)

// TestMove has a UserCluster and its keys be moved, as clusterctl does it: objects with the same metadata appear, with
// other UIDs, and those that are marked go. Nothing is released, and the keys stay.
func TestMove(t *testing.T) {
	w, p, other := adopting(t)
	byClusterAPI := func(uc *v1alpha1.UserCluster) {
		uc.Spec.Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}}
		uc.Spec.KSASigningKey.Source = ""
	}
	moved := w.create("moved", byClusterAPI)
	p.adopted = func() bool { return len(w.stored(moved)) > 0 }
	uc := w.until(moved, isSettled)
	first, identity := uc.UID, moved.String()+"/"+string(uc.UID)
	if uc.Identity() != string(first) || uc.Annotations[v1alpha1.AnnotationIdentity] != identity {
		t.Errorf("its annotations are %v", uc.Annotations)
	}
	for _, o := range []client.Object{uc, &w.keySecrets(moved)[0]} {
		if _, moves := o.GetLabels()[v1alpha1.LabelMove]; !moves {
			t.Errorf("%s has the labels %v, and clusterctl leaves it behind", o.GetName(), o.GetLabels())
		}
	}
	mark := client.RawPatch(types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/metadata/annotations","value":{"`+v1alpha1.AnnotationDeleteForMove+`":""}}]`))
	if err := admin.Patch(t.Context(), w.get(moved), mark); err != nil {
		t.Fatal(err)
	}
	w.delete(moved)
	w.until(moved, isGone)
	if stored := w.stored(moved); !slices.Equal(stored, []int{1}) {
		t.Fatalf("key versions %v are left, want those that belong to the other side", stored)
	}

	w.create("moved", byClusterAPI, func(there *v1alpha1.UserCluster) {
		there.Labels, there.Finalizers = uc.Labels, uc.Finalizers
		there.Annotations = map[string]string{v1alpha1.AnnotationIdentity: identity}
	})
	uc = w.until(moved, isSettled)
	if keys := uc.Status.KSASigningKey.Keys; uc.UID == first || len(keys) != 1 || keys[0].KeyID != p.key.KeyID {
		t.Errorf("UserCluster %s, which was %s, has the keys %+v", uc.UID, first, keys)
	}
	w.delete(moved)
	w.until(moved, isGone)
	if stored := w.stored(moved); len(stored) > 0 {
		t.Errorf("key versions %v are left", stored)
	}
	if prod := w.round(other); prod.Annotations[v1alpha1.AnnotationIdentity] != "" || keystore.ClusterOf(prod).Moves {
		t.Errorf("a cluster of kubeadm has the annotations %v, and its keys are to be moved", prod.Annotations)
	}
}
