package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes"
)

func threeServers(uc *v1alpha1.UserCluster) { uc.Spec.Infrastructure.Local.ControlPlane.Replicas = 3 }

func TestCreate(t *testing.T) {
	w := newWorld(t)
	blue := w.create("blue", threeServers)
	if uc := w.round(blue); !controllerutil.ContainsFinalizer(uc, v1alpha1.Finalizer) || len(w.stored(blue)) > 0 {
		t.Errorf("something was made before the finalizer, which is %v", uc.Finalizers)
	}
	var rotating int
	w.until(blue, isSettled, func(uc *v1alpha1.UserCluster) {
		if uc.Status.KSASigningKey.Step != "" {
			rotating++
		}
		if ready := condition(uc, v1alpha1.ConditionReady); !isSettled(uc) && ready.Reason != v1alpha1.ReasonCreateOrUpdate {
			t.Errorf("while it is created, the cluster is %s, %s: %s", ready.Status, ready.Reason, ready.Message)
		}
	})
	if rotating > 0 {
		t.Error("a new cluster is said to be rotated")
	}
	w.wantOnly(blue, 1)
	if told := w.events(blue); len(told) > 0 {
		t.Errorf("events of a new cluster: %s", told)
	}
	checkStatus(t, w.get(blue))
}

// checkStatus wants the status of a new cluster of three API servers.
func checkStatus(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	k := uc.Status.KSASigningKey
	if k.TokenVersion != 1 || k.PrivateKeyVersion != 1 || !slices.Equal(k.PublicKeyVersions, []int32{1}) ||
		len(k.Keys) != 1 || k.Keys[0].Version != 1 || k.Keys[0].Algorithm != v1alpha1.ES256 || k.Keys[0].CreatedAt.IsZero() ||
		k.StartedAt != nil || k.CompletedAt != nil || k.WaitingFor != "" {
		t.Errorf("keys = %+v", k)
	}
	if uc.Status.Endpoint != "https://blue.test" || len(uc.Status.APIServers) != 3 {
		t.Errorf("%d API servers behind %s", len(uc.Status.APIServers), uc.Status.Endpoint)
	}
	for i, s := range uc.Status.APIServers {
		name := fmt.Sprintf("cp-%d", i)
		if s.Name != name || s.Endpoint != "https://"+name+".test" || !s.Ready || s.SigningVersion != 1 ||
			!slices.Equal(s.AcceptedVersions, []int32{1}) {
			t.Errorf("API server = %+v", s)
		}
	}
	want := v1alpha1.NodePoolStatus{Name: "pool-1", Replicas: 2, Ready: 2, Updated: 2}
	if !slices.Equal(uc.Status.NodePools, []v1alpha1.NodePoolStatus{want}) {
		t.Errorf("node pools = %+v, want %+v", uc.Status.NodePools, want)
	}
}

// TestHome wants the status to remember where a control plane lives while there is none, for it to be made there again.
func TestHome(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	w.with(blue, func(c *userCluster) { c.servers = nil })
	in := w.round(blue).Status.Infrastructure
	if local := in.Local; in.Type != "local" || local == nil || local.Home != "host-1" {
		t.Errorf("status.infrastructure.local = %+v, want host-1 as its home", local)
	}
}

// TestUnservedInfrastructure has a controller that cannot open a cluster. It makes and deletes nothing, and says why.
func TestUnservedInfrastructure(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	red := w.create("red")
	unserved := errors.New("its infrastructure is not served")
	w.reconciler.ControlPlane = func(*v1alpha1.UserCluster) (controlplane.Adapter, error) { return nil, unserved }
	w.reconciler.Nodes = func(*v1alpha1.UserCluster) (nodes.Adapter, error) { return nil, unserved }
	w.failing = true
	w.delete(blue)
	for _, key := range []client.ObjectKey{blue, red} {
		kept := w.stored(key)
		var uc *v1alpha1.UserCluster
		for range 3 {
			uc = w.round(key)
		}
		ready := condition(uc, v1alpha1.ConditionReady)
		if ready.Status != metav1.ConditionFalse || !strings.Contains(ready.Message, unserved.Error()) {
			t.Errorf("%s: Ready is %s: %s", key.Name, ready.Status, ready.Message)
		}
		if got := w.stored(key); !slices.Equal(got, kept) || !controllerutil.ContainsFinalizer(uc, v1alpha1.Finalizer) {
			t.Errorf("%s: stored keys = %v, want %v; finalizers = %v", key.Name, got, kept, uc.Finalizers)
		}
	}
	w.restart()
	w.until(blue, isGone)
}

// TestEmptyLists has a spec with lists that a typed client would leave out when it writes the spec back.
func TestEmptyLists(t *testing.T) {
	w := newWorld(t)
	uc := newUserCluster(client.ObjectKey{Namespace: w.namespace, Name: "blue"})
	uc.Spec.Infrastructure.Local.NodePools = nil
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(uc)
	if err != nil {
		t.Fatal(err)
	}
	delete(object, "status")
	u := &unstructured.Unstructured{Object: object}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("UserCluster"))
	if err := unstructured.SetNestedSlice(u.Object, []any{}, "spec", "infrastructure", "local", "nodePools"); err != nil {
		t.Fatal(err)
	}
	if err := admin.Create(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	blue := client.ObjectKeyFromObject(uc)
	w.until(blue, isSettled)
	w.delete(blue)
	w.until(blue, isGone)
}

func TestKubeconfig(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	for _, content := range []string{"the first of " + blue.String(), "the second", "the third"} {
		w.with(blue, func(c *userCluster) { c.kubeconfig = content })
		w.round(blue)
		if got := w.kubeconfig(blue); got != content {
			t.Errorf("kubeconfig = %q, want %q", got, content)
		}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: blue.Namespace,
		Name: v1alpha1.KubeconfigSecretName(blue.Name)}}
	if err := w.controller.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	w.round(blue)
	if got := w.kubeconfig(blue); got != "the third" {
		t.Errorf("the deleted kubeconfig came back as %q", got)
	}
}

// TestQuiet wants nothing to be written when nothing changed.
func TestQuiet(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	settled := w.get(blue).ResourceVersion
	for range 3 {
		w.restart()
		if got := w.round(blue).ResourceVersion; got != settled {
			t.Errorf("resource version = %s, want %s as before", got, settled)
		}
	}
	w.with(blue, func(c *userCluster) { c.guarded = true })
	w.rotate(blue)
	blocked := w.until(blue, isBlocked).ResourceVersion
	for range 3 {
		if got := w.round(blue).ResourceVersion; got != blocked {
			t.Errorf("resource version = %s while the rotation is blocked, want %s as before", got, blocked)
		}
	}
}

// TestHeal kills what runs of a settled cluster.
func TestHeal(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue", threeServers)
	w.with(blue, func(c *userCluster) {
		c.servers[1].stop()
		c.manager.Running, c.manager.Ready = 0, false
	})
	ready := condition(w.round(blue), v1alpha1.ConditionReady)
	if ready.Status != metav1.ConditionFalse || !strings.Contains(ready.Message, "cp-1") {
		t.Errorf("while cp-1 is down, Ready is %s: %s", ready.Status, ready.Message)
	}
	w.until(blue, isSettled)
	w.wantOnly(blue, 1)
}

// TestSpoiledKey puts a key Secret into the store that cannot be read.
func TestSpoiledKey(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	good := w.keySecrets(blue)[0]
	spoiled := good.DeepCopy()
	spoiled.Data["private.pem"] = append([]byte("x"), spoiled.Data["private.pem"]...)
	w.replace(spoiled)
	w.failing = true
	uc := w.round(blue)
	ready := condition(uc, v1alpha1.ConditionReady)
	if ready.Status != metav1.ConditionFalse || ready.Reason != v1alpha1.ReasonCreateOrUpdate ||
		!strings.Contains(ready.Message, good.Name) ||
		uc.Status.KSASigningKey.WaitingFor != ready.Message {
		t.Errorf("Ready is %s, %s: %s\nwant it to be false and to name %s", ready.Status, ready.Reason, ready.Message,
			good.Name)
	}
	if err := w.raise(blue); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), good.Name) {
		t.Errorf("rotating = %v, want a refusal that names %s", err, good.Name)
	}
	w.failing = false
	w.replace(good.DeepCopy())
	w.until(blue, isSettled)
	w.wantOnly(blue, 1)
}

// TestDeleteSpoiledKey deletes a cluster of which a key cannot be read any more.
func TestDeleteSpoiledKey(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	spoiled := w.keySecrets(blue)[0].DeepCopy()
	delete(spoiled.Data, "public.pem")
	w.replace(spoiled)
	w.delete(blue)
	w.until(blue, isGone)
	if left := w.stored(blue); len(left) > 0 {
		t.Errorf("key versions %v are left", left)
	}
}

// replace deletes an immutable Secret and creates it again with the given content.
func (w *world) replace(s *corev1.Secret) {
	w.Helper()
	w.shown.hide(s.Data["private.pem"])
	if err := w.controller.Delete(w.Context(), s); err != nil {
		w.Fatal(err)
	}
	s.ObjectMeta = metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, Labels: s.Labels}
	if err := w.controller.Create(w.Context(), s); err != nil {
		w.Fatal(err)
	}
}

// TestSeveralClusters works on several clusters side by side, as the manager does, and wants none to touch another.
func TestSeveralClusters(t *testing.T) {
	w := newWorld(t)
	blue, green := w.settled("blue"), w.settled("green")
	w.namespace = newNamespace(t)
	namesake := w.settled("blue")
	quiet := w.get(green).ResourceVersion

	w.rotate(blue)
	w.rotate(namesake)
	for range maxRounds {
		w.sideBySide(blue, green, namesake)
		if isSettled(w.get(blue)) && isSettled(w.get(namesake)) {
			break
		}
	}
	w.wantOnly(blue, 2)
	w.wantOnly(namesake, 2)
	w.wantOnly(green, 1)
	if got := w.get(green).ResourceVersion; got != quiet {
		t.Errorf("resource version of the cluster that nobody touched = %s, want %s", got, quiet)
	}
	if a, b := w.get(blue).Status.KSASigningKey.Keys[0].KeyID, w.get(namesake).Status.KSASigningKey.Keys[0].KeyID; a == b {
		t.Errorf("two clusters share the key %s", a)
	}

	w.delete(blue)
	w.until(blue, isGone)
	w.round(green)
	w.round(namesake)
	w.wantOnly(namesake, 2)
	w.wantOnly(green, 1)
	for _, left := range []client.ObjectKey{green, namesake} {
		if w.kubeconfig(left) == "" || len(w.metric("keyturn_rotation_blocked", left)) != 1 {
			t.Errorf("the kubeconfig or the metrics of %s went with %s", left, blue)
		}
	}
}

// sideBySide does one round for each cluster, all at once.
func (w *world) sideBySide(keys ...client.ObjectKey) {
	w.Helper()
	w.passed += 5 * time.Second
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() { _, errs[i] = w.reconciler.Reconcile(w.Context(), ctrl.Request{NamespacedName: key}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		w.Fatal(err)
	}
}
