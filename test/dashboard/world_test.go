// Package dashboard_test tests the page of `gkectl dashboard` in Chromium.
//
// The admin cluster is a real API server, and gkectl and, where a rotation is seen, keyturn-controller are the programs
// in bin/. The control planes of user clusters are simulated (test/bench/simulated), or there are none and the test
// writes what a controller would have observed.
//
// Run it with go test -count 1: the cache of go test does not see that the programs changed. With -pictures DIR it
// writes screenshots there, and with -update the one in the README.
package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

var (
	pictures = flag.String("pictures", "", "directory to which screenshots are written")
	update   = flag.Bool("update", false, "write the picture of the README")
)

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// root is the directory of the main module.
const root = "../.."

// admin is the admin cluster that tests share; no controller works on it.
var admin *cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Setenv("KUBEBUILDER_ASSETS", assets())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// assets is where the Kubernetes binaries are: kubetest looks for those below its own module only.
func assets() string {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return dir
	}
	dir, err := filepath.Abs(filepath.Join(root, "bin/kube", kubetest.Version))
	if err != nil {
		panic(err)
	}
	return dir
}

func run(m *testing.M) (code int, err error) {
	config, stop, err := kubetest.Launch(kubetest.Options{})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if admin, err = newCluster(config); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// cluster is an admin cluster.
type cluster struct {
	config *rest.Config
	// admin is the client of an administrator, and controller one that may write what only the controller may.
	admin, controller client.Client
}

func newCluster(config *rest.Config) (*cluster, error) {
	scheme, err := controller.NewScheme()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := install.Apply(ctx, config); err != nil {
		return nil, err
	}
	c := &cluster{config: config}
	var adminErr, controllerErr error
	c.admin, adminErr = client.New(config, client.Options{Scheme: scheme})
	c.controller, controllerErr = client.New(kubetest.AsController(config), client.Options{Scheme: scheme})
	if err := errors.Join(adminErr, controllerErr); err != nil {
		return nil, err
	}
	return c, c.await(ctx)
}

// await returns once UserClusters can be created.
func (c *cluster) await(ctx context.Context) error {
	probe := newUserCluster("probe", 1)
	var last error
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		last = c.admin.Create(ctx, probe.DeepCopy(), client.DryRunAll)
		return last == nil, nil
	})
	return errors.Join(err, last)
}

// newUserCluster returns a cluster that simulated hosts can run.
func newUserCluster(name string, servers int32) *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: kubetest.Version,
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: servers},
			}},
			KSASigningKey: v1alpha1.KSASigningKey{
				Version: 1, Source: v1alpha1.KeySourceExternal, Algorithm: v1alpha1.ES256, Retire: v1alpha1.RetireWhenUnused,
			},
		},
	}
}

// create makes a cluster with an observed status, until the test ends. A later key version is wanted once the first is
// in use.
func (c *cluster) create(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	status, version := uc.Status, uc.Spec.KSASigningKey.Version
	uc.Spec.KSASigningKey.Version = 1
	if err := c.admin.Create(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(c.admin.Delete(context.Background(), uc)); err != nil {
			t.Error(err)
		}
	})
	if version > 1 {
		uc.Status = settled(uc.Name, 0).Status
		c.observe(t, uc)
		patch := fmt.Appendf(nil, `{"spec":{"ksaSigningKey":{"version":%d}}}`, version)
		if err := c.admin.Patch(t.Context(), uc, client.RawPatch(types.MergePatchType, patch)); err != nil {
			t.Fatal(err)
		}
	}
	uc.Status = status
	c.observe(t, uc)
}

// observe writes the status of a cluster as the controller does.
func (c *cluster) observe(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	uc.Status.ObservedGeneration = uc.Generation
	for i := range uc.Status.Conditions {
		uc.Status.Conditions[i].ObservedGeneration = uc.Generation
	}
	patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": uc.Status}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.controller.Status().Patch(t.Context(), uc, client.RawPatch(types.JSONPatchType, patch)); err != nil {
		t.Fatal(err)
	}
}

// serve runs gkectl dashboard until the test ends, and returns the URL that it prints.
func (c *cluster) serve(t *testing.T) string {
	t.Helper()
	cmd := program(t, "gkectl", "dashboard", "--kubeconfig", kubetest.WriteKubeconfig(t, c.config))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("gkectl dashboard printed %q: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// program is one of bin/.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v\nhint: run `make build`", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start runs a program until the test ends.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
}
