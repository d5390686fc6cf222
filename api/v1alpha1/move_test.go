package v1alpha1_test

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// allowEditor gives a user every verb on UserClusters and Secrets but the one that breaks the glass.
func allowEditor(t *testing.T, name string) {
	t.Helper()
	verbs := []string{"get", "list", "create", "update", "patch", "delete"}
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"userclusters"}, Verbs: verbs},
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: verbs},
		},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: role.ObjectMeta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	for _, o := range []client.Object{role, binding} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := admin.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMove does what clusterctl move does, as an administrator and as somebody who may not break the glass.
func TestMove(t *testing.T) {
	allowEditor(t, "editor")
	editor := as(t, "editor")
	awaitUser(t, editor)
	uc, key := newCluster("moved"), newKey("moved", 2)
	uc.Spec.Infrastructure = v1alpha1.Infrastructure{
		ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "moved", Method: v1alpha1.MethodInPlace},
	}
	uc.Spec.KSASigningKey.NodeRefresh, uc.Spec.KSASigningKey.Version = v1alpha1.NodeRefreshEvict, 2
	uc.Annotations = map[string]string{v1alpha1.AnnotationIdentity: v1alpha1.SystemNamespace + "/moved/uid-elsewhere"}
	uc.Labels, uc.Finalizers = map[string]string{v1alpha1.LabelMove: ""}, []string{v1alpha1.Finalizer}
	key.Labels[v1alpha1.LabelMove] = ""
	for _, o := range []client.Object{uc, key} {
		refuse(t, "creating", editor.Create(t.Context(), o.DeepCopyObject().(client.Object)))
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	identity := client.RawPatch(types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"keyturn.dev/identity":"another"}}}`))
	refuse(t, "another identity", editor.Patch(t.Context(), uc.DeepCopy(), identity))

	mark := client.RawPatch(types.JSONPatchType, []byte(
		`[{"op":"add","path":"/metadata/annotations","value":{"clusterctl.cluster.x-k8s.io/delete-for-move":""}}]`))
	for _, o := range []client.Object{key, uc} {
		refuse(t, "marking", editor.Patch(t.Context(), o.DeepCopyObject().(client.Object), mark))
		if err := admin.Patch(t.Context(), o, mark); err != nil {
			t.Fatal(err)
		}
		if o == client.Object(key) {
			refuse(t, "deleting", editor.Delete(t.Context(), o))
		}
		if err := admin.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	finalizers := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`))
	refuse(t, "removing the finalizers", editor.Patch(t.Context(), uc.DeepCopy(), finalizers))
	if err := admin.Patch(t.Context(), uc, finalizers); err != nil {
		t.Fatal(err)
	}
}

// refuse wants an error of a policy.
func refuse(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
		t.Errorf("%s: %v, want a policy to refuse it", what, err)
	}
}

func TestIdentity(t *testing.T) {
	uc := newCluster("blue")
	uc.UID = "first"
	if uc.MarkForMove() || uc.Identity() != "first" {
		t.Errorf("a cluster that does not move has the identity %q and the annotations %v", uc.Identity(), uc.Annotations)
	}
	uc.Spec.Infrastructure = v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "blue"}}
	if !uc.MarkForMove() || uc.MarkForMove() {
		t.Errorf("it was not marked once: %v", uc.Annotations)
	}
	uc.UID = "second"
	if uc.MarkForMove() || uc.Identity() != "first" {
		t.Errorf("moved, it has the identity %q", uc.Identity())
	}
	uc.Name = "copy"
	if uc.Identity() != "second" || !uc.MarkForMove() || uc.Identity() != "second" {
		t.Errorf("a copy has the identity %q and the annotations %v", uc.Identity(), uc.Annotations)
	}
}
