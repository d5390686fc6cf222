// Package kubetest starts a real etcd and kube-apiserver for a test.
//
// Start is for one test, Launch for a TestMain that shares one server. `make kube` builds the programs. If they are
// missing, a test that needs them fails, and is never skipped.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Version is the Kubernetes version whose binaries are used unless KUBEBUILDER_ASSETS names others.
const Version = "v1.36.4"

const (
	startTimeout = 5 * time.Minute
	stopTimeout  = 2 * time.Minute
)

// Options change what Start and Launch run. The zero value is an API server with RBAC, without the
// ServiceAccount admission plugin, whose etcd does not sync to disk.
type Options struct {
	// APIServerArgs are kube-apiserver flags by name without dashes, each with its values. They
	// replace the defaults of envtest.
	APIServerArgs map[string][]string
	// EtcdArgs are etcd flags in the same form.
	EtcdArgs map[string][]string
	// CRDPaths are files or directories of CustomResourceDefinitions to install.
	CRDPaths []string
	// Address is where the API server listens; zero: on a free port of the loopback interface.
	Address netip.AddrPort
}

// Start runs an API server until the test ends and returns the configuration of a system:masters
// client that has no rate limit. It fails the test if that is not possible.
func Start(tb testing.TB, o Options) *rest.Config {
	tb.Helper()
	config, stop, err := Launch(o)
	if err != nil {
		tb.Fatalf("starting a kube-apiserver: %v", err)
	}
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Errorf("stopping the kube-apiserver: %v", err)
		}
	})
	return config
}

// Launch is Start for a TestMain, which must call stop before it exits.
func Launch(o Options) (config *rest.Config, stop func() error, err error) {
	dir, err := BinDir()
	if err != nil {
		return nil, nil, err
	}
	log.SetLogger(logr.Discard()) // otherwise it warns that there is none
	plane := controlPlane(dir, o)
	config, err = start(plane, o.CRDPaths)
	if err != nil {
		return nil, nil, errors.Join(err, plane.Stop())
	}
	return config, plane.Stop, nil
}

// startAttempts is how often a control plane is started if another process takes its port first.
const startAttempts = 5

// start does what envtest.Environment.Start does, which gives one part only five seconds, too little on a busy machine.
func start(plane *envtest.ControlPlane, crds []string) (*rest.Config, error) {
	err := plane.Start()
	for attempt := 1; err != nil && attempt < startAttempts; attempt++ {
		err = plane.Start()
	}
	if err != nil {
		return nil, err
	}
	admin, err := plane.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, fmt.Errorf("making a user: %w", err)
	}
	config := admin.Config()
	if err := awaitNamespace(config); err != nil {
		return nil, err
	}
	_, err = envtest.InstallCRDs(config, envtest.CRDInstallOptions{
		Paths: crds, ErrorIfPathMissing: true, MaxTime: startTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("installing CustomResourceDefinitions: %w", err)
	}
	return config, nil
}

// awaitNamespace waits until the API server has made the namespace default.
func awaitNamespace(config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	var last error
	made := func(ctx context.Context) (bool, error) {
		_, last = client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		return last == nil, nil
	}
	err = wait.PollUntilContextTimeout(context.Background(), 50*time.Millisecond, startTimeout, true, made)
	if err != nil {
		return fmt.Errorf("waiting for the namespace default: %w", errors.Join(err, last))
	}
	return nil
}

// BinDir returns the directory of the Kubernetes and etcd binaries: KUBEBUILDER_ASSETS, or bin/kube/<Version> of this
// repository. A missing binary is an error.
func BinDir() (string, error) {
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "bin", "kube", Version)
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("finding the Kubernetes binaries, which `make kube` builds, or KUBEBUILDER_ASSETS names: %w",
				err)
		}
	}
	return dir, nil
}

func controlPlane(dir string, o Options) *envtest.ControlPlane {
	plane := &envtest.ControlPlane{Etcd: &envtest.Etcd{
		Path: filepath.Join(dir, "etcd"), StartTimeout: startTimeout, StopTimeout: stopTimeout,
	}}
	server := plane.GetAPIServer()
	server.Path, server.StartTimeout, server.StopTimeout = filepath.Join(dir, "kube-apiserver"), startTimeout, stopTimeout
	if o.Address.IsValid() {
		server.SecureServing.Address, server.SecureServing.Port = o.Address.Addr().String(), fmt.Sprint(o.Address.Port())
	}
	// Watches that a test left open must not delay its end.
	server.Configure().Set("shutdown-watch-termination-grace-period", "1s")
	for name, values := range o.APIServerArgs {
		server.Configure().Set(name, values...)
	}
	for name, values := range o.EtcdArgs {
		plane.Etcd.Configure().Set(name, values...)
	}
	return plane
}

// moduleRoot returns the directory of go.mod: the working directory of a test is its package's.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the module: %w", err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the module: no go.mod above the working directory")
		}
		dir = parent
	}
}
