package controller_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// The users of the admin cluster that all tests share: an administrator whom RBAC refuses nothing, and the
// controller, with the roles of the manifests only.
var (
	admin            client.Client
	controllerConfig *rest.Config
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(siteSocket); socket != "" {
		os.Exit(runController(socket))
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	config, stop, err := kubetest.Launch(kubetest.Options{APIServerArgs: map[string][]string{
		"watch-cache": {"false"}, // a list from it waits for etcd to tell how far it is, which is every 100 ms
	}})
	if err != nil {
		return 1, fmt.Errorf("starting a kube-apiserver: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if admin, err = newClient(config); err != nil {
		return 1, err
	}
	controllerConfig = kubetest.AsController(config)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := errors.Join(install.Apply(ctx, config), awaitPolicies(ctx)); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func newClient(config *rest.Config) (client.Client, error) {
	scheme, err := controller.NewScheme()
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// awaitPolicies returns once the manifests are in force.
func awaitPolicies(ctx context.Context) error {
	asController, err := newClient(controllerConfig)
	if err != nil {
		return err
	}
	uc := newUserCluster(client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "probe"})
	var last error
	err = wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		last = tryManifests(ctx, asController, uc)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the manifests to come into force: %w; the last result was: %w", err, last)
	}
	return admin.Delete(ctx, uc)
}

// tryManifests wants UserClusters to be served, a policy to refuse, and the controller to be let do its work.
func tryManifests(ctx context.Context, asController client.Client, uc *v1alpha1.UserCluster) error {
	if err := client.IgnoreAlreadyExists(admin.Create(ctx, uc.DeepCopy())); err != nil {
		return err
	}
	raised := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"ksaSigningKey":{"version":2}}}`))
	if err := admin.Patch(ctx, uc.DeepCopy(), raised, client.DryRunAll); !apierrors.IsForbidden(err) {
		return fmt.Errorf("a rotation of a cluster that is not ready is not refused: %w", err)
	}
	return asController.List(ctx, &v1alpha1.UserClusterList{})
}

// newUserCluster returns a valid UserCluster with one API server and one pool of two nodes.
func newUserCluster(key client.ObjectKey) *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: "v1.36.4",
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: 1},
				NodePools:         []v1alpha1.NodePool{{Name: "pool-1", Replicas: 2, MaxSurge: 1}},
			}},
			KSASigningKey: v1alpha1.KSASigningKey{Version: 1, Source: v1alpha1.KeySourceFiles, Algorithm: v1alpha1.ES256},
		},
	}
}
