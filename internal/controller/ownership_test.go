package controller_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/keystore"
)

// secret makes a Secret in this world's namespace, as an administrator.
func (w *world) secret(name string, kind corev1.SecretType, labels map[string]string) *corev1.Secret {
	w.Helper()
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: labels}, Type: kind,
		Data: map[string][]byte{v1alpha1.KubeconfigKey: []byte("of somebody else")},
	}
	if err := admin.Create(w.Context(), s); err != nil {
		w.Fatal(err)
	}
	return s
}

// wantAsItWas wants nobody to have written or deleted an object.
func (w *world) wantAsItWas(s *corev1.Secret) {
	w.Helper()
	is := &corev1.Secret{}
	if err := admin.Get(w.Context(), client.ObjectKeyFromObject(s), is); err != nil ||
		is.ResourceVersion != s.ResourceVersion {
		w.Errorf("Secret %s was changed (%v): %+v", s.Name, err, is.ObjectMeta)
	}
}

func (w *world) annotate(key client.ObjectKey, name, value string) {
	w.Helper()
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata": {"annotations": {%q: %q}}}`, name,
		value))
	if err := admin.Patch(w.Context(), w.get(key), patch); err != nil {
		w.Fatal(err)
	}
}

func registered(uc *v1alpha1.UserCluster) {
	uc.Spec.GKEConnect = &v1alpha1.GKEConnect{
		ProjectID: "my-project-123", Location: "global", CredentialsSecret: v1alpha1.CredentialsSecretName(uc.Name),
	}
}

// TestForeignSecrets has Secrets of somebody else under the names that Keyturn would use. The cluster comes to be,
// rotates and goes; they stay as they are, and the status says why there is no kubeconfig.
func TestForeignSecrets(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"of another tool":    nil,
		"of another cluster": {v1alpha1.LabelCluster: "green", v1alpha1.LabelClusterUID: "its"},
		"of a namesake":      {v1alpha1.LabelCluster: "blue", v1alpha1.LabelClusterUID: "its"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			kubeconfig := w.secret("blue-kubeconfig", "cluster.x-k8s.io/secret", labels)
			credentials := w.secret("blue-gke-connect", corev1.SecretTypeOpaque, labels)
			blue := w.settled("blue", registered)
			w.wantCondition(w.get(blue), v1alpha1.ConditionKubeconfig, metav1.ConditionFalse, v1alpha1.ReasonSecretNotOurs,
				"Keyturn did not create Secret "+w.namespace+"/blue-kubeconfig: it lacks the type keyturn.dev/kubeconfig, or "+
					"the UID of this cluster in its label keyturn.dev/cluster-uid; delete it if nobody needs it, and Keyturn "+
					"writes the kubeconfig there")
			w.rotate(blue)
			w.until(blue, isSettled)
			w.wantOnly(blue, 2)
			w.wantAsItWas(kubeconfig)
			w.delete(blue)
			w.until(blue, isGone)
			w.wantAsItWas(kubeconfig)
			w.wantAsItWas(credentials)
		})
	}
}

// TestKubeconfigComesLater takes the foreign Secret away.
func TestKubeconfigComesLater(t *testing.T) {
	w := newWorld(t)
	foreign := w.secret("blue-kubeconfig", "cluster.x-k8s.io/secret", nil)
	blue := w.settled("blue")
	if err := admin.Delete(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	w.round(blue)
	w.round(blue) // the first wrote it
	w.wantCondition(w.get(blue), v1alpha1.ConditionKubeconfig, metav1.ConditionTrue, v1alpha1.ReasonKubeconfigWritten,
		"Secret blue-kubeconfig holds the administrator's kubeconfig")
	if w.kubeconfig(blue) == "" {
		t.Error("there is no kubeconfig")
	}
	w.delete(blue)
	w.until(blue, isGone)
	w.wantNothing(blue)
}

// TestCredentialsOutliveTheirDeletion deletes the credentials of the fleet before the cluster, as a deletion of the
// namespace does: they stay until the cluster has left its fleet.
func TestCredentialsOutliveTheirDeletion(t *testing.T) {
	w := newWorld(t)
	mine := map[string]string{v1alpha1.LabelCluster: "blue"}
	secret := w.secret("blue-gke-connect", corev1.SecretTypeOpaque, mine)
	w.reconciler.Publishers = w.needing(secret)
	blue := w.settled("blue", registered)
	for _, o := range []client.Object{secret, w.get(blue)} {
		if err := admin.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	w.until(blue, isGone)
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); !apierrors.IsNotFound(err) {
		t.Errorf("the credentials are left: %v", err)
	}
	w.wantNothing(blue)
}

// TestCredentialsAreReleased has a cluster whose spec names its credentials no more: gkectl can delete them.
func TestCredentialsAreReleased(t *testing.T) {
	w := newWorld(t)
	secret := w.secret("blue-gke-connect", corev1.SecretTypeOpaque, map[string]string{v1alpha1.LabelCluster: "blue"})
	blue := w.settled("blue", registered)
	uc := w.get(blue)
	uc.Spec.GKEConnect.CredentialsSecret = ""
	if err := admin.Update(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	w.until(blue, isSettled)
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); !apierrors.IsNotFound(err) {
		t.Errorf("the credentials are held: %v", err)
	}
}

// adopted makes a cluster one that kubeadm made.
func adopted(uc *v1alpha1.UserCluster) {
	uc.Spec.Infrastructure = v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{
		KubeconfigSecret: v1alpha1.AdoptedKubeconfigSecretName(uc.Name),
	}}
	uc.Spec.KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshEvict
	uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceFiles
}

// TestAdoptedKubeconfigIsHeld deletes the kubeconfig of an adopted cluster before its UserCluster: it stays until that
// is released. One that gkectl has not made stays as it is.
func TestAdoptedKubeconfigIsHeld(t *testing.T) {
	for name, labels := range map[string]map[string]string{"ours": {v1alpha1.LabelCluster: "blue"},
		"of somebody else": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.settled("green") // of which there are keys to hide
			w.reconciler.ControlPlane = func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
				return plane{w.site, client.ObjectKeyFromObject(uc), 0}, nil
			}
			secret := w.secret("blue-adopted-kubeconfig", corev1.SecretTypeOpaque, labels)
			blue := w.create("blue", adopted)
			w.round(blue)
			w.round(blue)
			if labels == nil {
				w.wantAsItWas(secret)
				return
			}
			if err := admin.Delete(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			held := &corev1.Secret{}
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), held); err != nil ||
				held.Labels[v1alpha1.LabelClusterUID] != string(w.get(blue).UID) {
				t.Fatalf("the kubeconfig is not held: %v", err)
			}
			w.delete(blue)
			w.until(blue, isGone)
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), held); !apierrors.IsNotFound(err) {
				t.Errorf("the kubeconfig is left: %v", err)
			}
		})
	}
}

// unreleasable is the control plane of an adopted cluster that is gone.
type unreleasable struct{ plane }

func (unreleasable) Delete(context.Context) (gone bool, err error) {
	return false, errors.New("its API server does not answer")
}

// TestAdoptedClusterCanBeLeft deletes the UserCluster of an adopted cluster that is gone for good.
func TestAdoptedClusterCanBeLeft(t *testing.T) {
	w := newWorld(t)
	w.settled("green") // of which there are keys to hide
	w.reconciler.ControlPlane = func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
		return unreleasable{plane{w.site, client.ObjectKeyFromObject(uc), 0}}, nil
	}
	blue := w.create("blue", adopted)
	w.round(blue)
	w.delete(blue)
	w.failing = true
	const why = "releasing the cluster: its API server does not answer; to delete the UserCluster and leave its " +
		"cluster unchanged, annotate it with keyturn.dev/leave-cluster=REASON"
	w.until(blue, func(uc *v1alpha1.UserCluster) bool { return uc.Status.KSASigningKey.WaitingFor == why })
	w.annotate(blue, v1alpha1.AnnotationLeaveCluster, "its machines were scrapped")
	w.until(blue, isGone)
	left := func(e string) bool { return strings.HasPrefix(e, "Warning DeleteCluster ClusterNotReleased: ") }
	if told := w.recorder.of(blue); !slices.ContainsFunc(told, left) {
		t.Errorf("no event tells that the cluster was left: %q", told)
	}
}

// credentialed is a destination that is reached by a Secret.
type credentialed struct {
	fleettest.Memory
	read func(context.Context) error
}

func (c *credentialed) Observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	if err := c.read(ctx); err != nil {
		return fleet.Observation{}, err
	}
	return c.Memory.Observe(ctx, keys)
}

func (c *credentialed) Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error {
	if err := c.read(ctx); err != nil {
		return err
	}
	return c.Memory.Publish(ctx, keys, versions)
}

func (c *credentialed) Remove(ctx context.Context) error {
	if err := c.read(ctx); err != nil {
		return err
	}
	return c.Memory.Remove(ctx)
}

// needing are destinations that are reached by a Secret only.
func (w *world) needing(secret *corev1.Secret) *destinations {
	d := &credentialed{read: func(ctx context.Context) error {
		return w.controller.Get(ctx, client.ObjectKeyFromObject(secret), &corev1.Secret{})
	}}
	return &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher { return []fleet.Publisher{d} }}
}

// unreachable is a destination from which nothing can be removed.
type unreachable struct {
	fleettest.Memory
}

func (*unreachable) Remove(context.Context) error { return errors.New("the bucket is gone for good") }

// TestPublishedKeysCanBeLeft deletes a cluster whose keys are published where nothing can be removed any more.
func TestPublishedKeysCanBeLeft(t *testing.T) {
	w := newWorld(t)
	w.reconciler.Publishers = &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher {
		return []fleet.Publisher{&unreachable{}}
	}}
	blue := w.create("blue")
	w.until(blue, func(*v1alpha1.UserCluster) bool { return len(w.stored(blue)) > 0 })
	w.delete(blue)
	w.failing = true
	const why = "the bucket is gone for good; to delete the cluster and leave that behind, annotate it with " +
		"keyturn.dev/leave-published=REASON"
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return strings.HasSuffix(uc.Status.KSASigningKey.WaitingFor, why)
	})
	w.annotate(blue, v1alpha1.AnnotationLeavePublished, "the project was deleted")
	w.until(blue, isGone)
	w.wantNothing(blue)
	if told := w.recorder.of(blue); !slices.ContainsFunc(told, func(s string) bool {
		return strings.HasPrefix(s, "Warning DeleteCluster PublishedKeysLeft: ")
	}) {
		t.Errorf("no event tells of what is left: %q", told)
	}
}

// orphan makes a cluster go without the controller, as an administrator can, at key version 2. Its keys are left.
func (w *world) orphan() client.ObjectKey {
	w.Helper()
	blue := w.settled("blue")
	w.rotate(blue)
	w.until(blue, isSettled)
	w.takeAway(blue)
	w.with(blue, func(c *userCluster) { *c = userCluster{kubeconfig: "another"} })
	return blue
}

// takeAway deletes a UserCluster behind the controller's back.
func (w *world) takeAway(key client.ObjectKey) {
	w.Helper()
	w.annotate(key, v1alpha1.AnnotationBreakGlass, "test")
	w.delete(key)
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`))
	if err := admin.Patch(w.Context(), w.get(key), patch); err != nil {
		w.Fatal(err)
	}
}

// TestNamesakeGetsNoKey makes a cluster under the name of one whose keys are left. It uses none of them, says what is
// in its way, can be deleted, and works when they are gone.
func TestNamesakeGetsNoKey(t *testing.T) {
	w := newWorld(t)
	blue := w.orphan()
	left := w.keySecrets(blue)
	w.create("blue")
	w.failing, w.losing = true, true
	foreign := func(uc *v1alpha1.UserCluster) bool {
		return strings.Contains(condition(uc, v1alpha1.ConditionReady).Message,
			"blue-ksa-signing-key-2: it is not a key of this cluster")
	}
	w.until(blue, foreign)
	w.with(blue, func(c *userCluster) {
		if len(c.servers) > 0 {
			t.Errorf("%d API servers were made with the keys of another cluster", len(c.servers))
		}
	})
	w.delete(blue)
	w.until(blue, isGone)
	if now := w.keySecrets(blue); len(left) != 1 || len(now) != 1 || now[0].UID != left[0].UID {
		t.Fatalf("%d keys were left and %d are there now, want the same one", len(left), len(now))
	}

	w.create("blue")
	w.until(blue, foreign)
	armed := left[0].DeepCopy()
	armed.Annotations = map[string]string{v1alpha1.AnnotationBreakGlass: "nobody needs it"}
	if err := errors.Join(admin.Update(t.Context(), armed), admin.Delete(t.Context(), armed)); err != nil {
		t.Fatal(err)
	}
	w.until(blue, isSettled)
	w.wantOnlyKey(blue, 1)
}

// wantOnlyKey wants a key version to be the only one that is stored.
func (w *world) wantOnlyKey(key client.ObjectKey, version int) {
	w.Helper()
	if stored := w.stored(key); !slices.Equal(stored, []int{version}) {
		w.Errorf("key versions %v are stored, want %d only", stored, version)
	}
}

// TestDeleteEveryVersion stores a version that the spec knows nothing of.
func TestDeleteEveryVersion(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	extra := w.keySecrets(blue)[0]
	extra.ObjectMeta = metav1.ObjectMeta{Namespace: w.namespace, Name: "blue-ksa-signing-key-7",
		Labels: maps.Clone(extra.Labels)}
	if err := w.controller.Create(t.Context(), &extra); err != nil {
		t.Fatal(err)
	}
	w.delete(blue)
	w.failing = true
	w.until(blue, isGone)
	w.wantNothing(blue)
}

// TestSquattedName has a Secret of another type under the name of the next key version, from before the policies.
func TestSquattedName(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	squatter := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "blue-ksa-signing-key-2"}}
	if err := w.controller.Create(t.Context(), squatter); err != nil {
		t.Fatal(err)
	}
	w.rotate(blue)
	w.failing = true
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return inStep("Generate")(uc) && strings.Contains(uc.Status.KSASigningKey.WaitingFor,
			"blue-ksa-signing-key-2: it is not a key of this cluster: it is not of type keyturn.dev/ksa-signing-key; delete "+
				"it if nobody needs it")
	})
	if err := admin.Delete(t.Context(), squatter); err != nil {
		t.Fatal(err)
	}
	w.until(blue, isSettled)
	w.wantOnly(blue, 2)
}
