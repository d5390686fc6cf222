package v1alpha1_test

import (
	"errors"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// newUser returns a client that may read and change UserClusters and Secrets.
func newUser(t *testing.T, name string) client.Client {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"keyturn.dev"}, Resources: []string{"userclusters"}, Verbs: []string{"get", "update", "patch"}},
		{
			APIGroups: []string{""}, Resources: []string{"secrets"},
			Verbs: []string{"get", "create", "update", "patch", "delete"},
		},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	for _, o := range []client.Object{role, binding} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	user := as(t, name)
	awaitUser(t, user)
	return user
}

// as returns the client of a user.
func as(t *testing.T, name string) client.Client {
	t.Helper()
	impersonating := rest.CopyConfig(config)
	impersonating.Impersonate.UserName = name
	user, err := newClient(impersonating)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// awaitUser returns once the API server knows the roles of a user.
func awaitUser(t *testing.T, user client.Client) {
	t.Helper()
	probe := createCluster(t, nil)
	isNil := func(err error) bool { return err == nil }
	read := func() error { return user.Get(t.Context(), client.ObjectKeyFromObject(probe), probe) }
	if err := errors.Join(eventually(t.Context(), isNil, read), admin.Delete(t.Context(), probe)); err != nil {
		t.Fatal(err)
	}
}

func ownedBy(uid types.UID) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: uid}
}

// TestDeletionIsTheControllers has somebody who may change a UserCluster, but not delete it, try to make it go: by an
// owner who is not there, for the garbage collector, and by taking away what the controller waits for.
func TestDeletionIsTheControllers(t *testing.T) {
	const (
		finalizers = "requests must not change the finalizers of Keyturn on a UserCluster: the controller takes its own " +
			"off " +
			"when the infrastructure and the keys of the cluster are gone. docs/operations/recover.md says what to do when it " +
			"cannot"
		owners = "requests must not add owner references to a UserCluster: the cluster would be deleted with its owner"
	)
	editor := newUser(t, "editor")
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) {
		uc.OwnerReferences = []metav1.OwnerReference{ownedBy("1"), ownedBy("2")}
		uc.Finalizers = []string{v1alpha1.Finalizer, "example.com/held"}
	})
	for _, test := range []struct {
		name    string
		change  func(*v1alpha1.UserCluster)
		refusal string
	}{
		{
			"an owner more", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences = append(uc.OwnerReferences, ownedBy("3")) },
			owners,
		},
		{"another owner", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences[0].UID = "3" }, owners},
		{"another name of an owner", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences[0].Name = "absent" }, owners},
		{"another kind of an owner", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences[0].Kind = "Absent" }, owners},
		{"another group of an owner", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences[0].APIVersion = "a/v1" }, owners},
		{"an owner less", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences = uc.OwnerReferences[:1] }, ""},
		{"no owner", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences = nil }, ""},
		{"an owner lets go", func(uc *v1alpha1.UserCluster) { uc.OwnerReferences[0].BlockOwnerDeletion = new(bool) }, ""},
		{"no finalizer", func(uc *v1alpha1.UserCluster) { uc.Finalizers = nil }, finalizers},
		{"not our finalizer", func(uc *v1alpha1.UserCluster) { uc.Finalizers = []string{"example.com/held"} }, finalizers},
		{
			"a finalizer like ours",
			func(uc *v1alpha1.UserCluster) { uc.Finalizers = append(uc.Finalizers, "keyturn.dev/other") }, finalizers,
		},
		{"no finalizer but ours", func(uc *v1alpha1.UserCluster) { uc.Finalizers = []string{v1alpha1.Finalizer} }, ""},
		{
			"a finalizer of others",
			func(uc *v1alpha1.UserCluster) { uc.Finalizers = append(uc.Finalizers, "example.com/more") }, "",
		},
		{"a reason alone", func(uc *v1alpha1.UserCluster) {
			uc.Annotations = map[string]string{v1alpha1.AnnotationBreakGlass: "I want it"}
			uc.Finalizers = nil
		}, finalizers},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := uc.DeepCopy()
			test.change(changed)
			err := editor.Update(t.Context(), changed, client.DryRunAll)
			if test.refusal == "" {
				checkErr(t, err, "")
				return
			}
			checkRefused(t, err, "keyturn-deletion", test.refusal)
		})
	}
	// Administrators too need a reason, which nobody gives by accident.
	unarmed := uc.DeepCopy()
	unarmed.Finalizers = nil
	checkRefused(t, admin.Update(t.Context(), unarmed), "keyturn-deletion", finalizers)
	checkErr(t, setFinalizers(t, controller, uc), "")
	checkErr(t, admin.Delete(t.Context(), uc), "")
}
