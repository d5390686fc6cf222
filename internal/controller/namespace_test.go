package controller_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// await returns once done does, however long that takes on a busy machine.
func (w *world) await(what string, done func() (bool, error)) {
	w.Helper()
	err := wait.PollUntilContextTimeout(w.Context(), 50*time.Millisecond, 5*time.Minute, true,
		func(context.Context) (bool, error) {
			return done()
		})
	if err != nil {
		w.Fatalf("waiting for %s: %v", what, err)
	}
}

// TestNamespaceGoes deletes a namespace with a registered cluster: the cluster leaves its fleet, for which it needs its
// credentials, and then nothing keeps the namespace.
func TestNamespaceGoes(t *testing.T) {
	w := newWorld(t)
	secret := w.secret("blue-gke-connect", corev1.SecretTypeOpaque, map[string]string{v1alpha1.LabelCluster: "blue"})
	w.reconciler.Publishers = w.needing(secret)
	blue := w.settled("blue", registered)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}
	if err := admin.Delete(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	administrator := rest.CopyConfig(controllerConfig)
	administrator.Impersonate = rest.ImpersonationConfig{}
	kubetest.StartControllers(t, administrator, "namespace-controller")
	w.await("the credentials and the cluster to be deleted", func() (bool, error) {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), secret)
		return err == nil && !secret.DeletionTimestamp.IsZero() && !w.get(blue).DeletionTimestamp.IsZero(), err
	})
	w.until(blue, isGone)
	if w.kubeconfig(blue) != "" || len(w.stored(blue)) > 0 {
		t.Error("Secrets of the cluster are left")
	}
	w.await("the namespace to be gone", func() (bool, error) {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(namespace), namespace)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
