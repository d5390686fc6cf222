package v1alpha1_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// The users of the tests, on one API server with all manifests: an administrator whom RBAC refuses
// nothing, and the controller, with the roles of the manifests only.
var admin, controller client.Client

// config is how the administrator reaches the API server.
var config *rest.Config

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	var stop func() error
	config, stop, err = kubetest.Launch(kubetest.Options{})
	if err != nil {
		return 1, fmt.Errorf("starting a kube-apiserver: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if admin, err = newClient(config); err != nil {
		return 1, err
	}
	if err := install.Apply(ctx, config); err != nil {
		return 1, err
	}
	if controller, err = newClient(kubetest.AsController(config)); err != nil {
		return 1, err
	}
	if err := waitForPolicies(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func newClient(config *rest.Config) (client.Client, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// waitForPolicies returns once UserClusters are served and each policy refuses what it is for.
func waitForPolicies(ctx context.Context) error {
	uc, key := newCluster("settling"), newKey("settling", 1)
	isNil := func(err error) bool { return err == nil }
	if err := eventually(ctx, isNil, func() error { return admin.Create(ctx, uc) }); err != nil {
		return err
	}
	if err := eventually(ctx, isRefusedBy("keyturn-status-is-observed"), func() error {
		return admin.Status().Update(ctx, uc.DeepCopy(), client.DryRunAll) // one that is let through must not change uc
	}); err != nil {
		return err
	}
	if err := eventually(ctx, isRefusedBy("keyturn-signing-keys"), func() error {
		return admin.Create(ctx, key.DeepCopy(), client.DryRunAll)
	}); err != nil {
		return err
	}
	change := uc.DeepCopy()
	change.Spec.Infrastructure.Local.NodePools = nil
	if err := eventually(ctx, isRefusedBy("keyturn-one-change-at-a-time"), func() error {
		return admin.Update(ctx, change.DeepCopy(), client.DryRunAll)
	}); err != nil {
		return err
	}
	return admin.Delete(ctx, uc)
}

func isRefusedBy(policy string) func(error) bool {
	return func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+policy+"'")
	}
}

// eventually repeats do until its result is as wanted, and fails when ctx ends.
func eventually(ctx context.Context, wanted func(error) bool, do func() error) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		last = do()
		return wanted(last), nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the manifests to come into force: %w; the last result was: %w", err, last)
	}
	return nil
}

// newCluster returns a valid UserCluster with one node pool.
func newCluster(name string) *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: "v1.36.4",
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: 3},
				NodePools:         []v1alpha1.NodePool{{Name: "pool-1", Replicas: 2, MaxSurge: 1}},
			}},
			KSASigningKey: v1alpha1.KSASigningKey{
				Version: 1, Source: v1alpha1.KeySourceFiles, Algorithm: v1alpha1.RS256,
				NodeRefresh: v1alpha1.NodeRefreshReplace, TokenReloadSeconds: 300,
				Retire: v1alpha1.RetireAfterRefresh, RetireTimeoutSeconds: 86400,
				Issuer: v1alpha1.DefaultIssuer, PublishMaxAgeSeconds: 60,
			},
		},
	}
}

func newKey(cluster string, version int) *corev1.Secret {
	immutable := true
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.SystemNamespace,
			Name:      fmt.Sprintf("%s-ksa-signing-key-%d", cluster, version),
			Labels: map[string]string{
				v1alpha1.LabelCluster:    cluster,
				v1alpha1.LabelKeyVersion: fmt.Sprint(version),
			},
		},
		Type:      v1alpha1.SecretTypeSigningKey,
		Immutable: &immutable,
		Data:      map[string][]byte{"key": []byte("not really a key")},
	}
}
