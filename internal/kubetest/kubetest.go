// Package kubetest starts a real etcd and kube-apiserver for a test.
//
// Start is for one test, Launch for a TestMain that shares one server. The binaries are those of
// `make kube`; a test that needs them fails, and is never skipped, when they are missing.
package kubetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
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

// Launch is Start for a TestMain, which has to call stop before it exits.
func Launch(o Options) (config *rest.Config, stop func() error, err error) {
	dir, err := BinDir()
	if err != nil {
		return nil, nil, err
	}
	log.SetLogger(logr.Discard()) // otherwise it warns that there is none
	env := environment(dir, o)
	config, err = env.Start()
	if err != nil {
		return nil, nil, errors.Join(err, env.Stop())
	}
	config.QPS = -1
	return config, env.Stop, nil
}

// BinDir returns the directory of the Kubernetes and etcd binaries: KUBEBUILDER_ASSETS, or
// bin/kube/<Version> of this repository. That a binary is missing is an error.
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
			return "", fmt.Errorf("finding the Kubernetes binaries: %w\nhint: run `make kube` to build them, or let KUBEBUILDER_ASSETS name their directory", err)
		}
	}
	return dir, nil
}

func environment(dir string, o Options) *envtest.Environment {
	// Never an existing cluster, whatever USE_EXISTING_CLUSTER says: tests delete things.
	existing := false
	env := &envtest.Environment{
		UseExistingCluster:       &existing,
		BinaryAssetsDirectory:    dir,
		CRDDirectoryPaths:        o.CRDPaths,
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: startTimeout,
		ControlPlaneStopTimeout:  stopTimeout,
	}
	server := env.ControlPlane.GetAPIServer()
	server.Path = filepath.Join(dir, "kube-apiserver")
	// Watches that a test left open must not hold up its end.
	server.Configure().Set("shutdown-watch-termination-grace-period", "1s")
	for name, values := range o.APIServerArgs {
		server.Configure().Set(name, values...)
	}
	env.ControlPlane.Etcd = &envtest.Etcd{Path: filepath.Join(dir, "etcd")}
	for name, values := range o.EtcdArgs {
		env.ControlPlane.Etcd.Configure().Set(name, values...)
	}
	return env
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
