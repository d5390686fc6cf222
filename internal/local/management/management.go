// Package management makes a management cluster of Cluster API on this host: a control plane without nodes, Cluster
// API, and Keyturn's controller. All of it are processes, which outlive the caller.
//
// Open is where to start. The package is there to try Keyturn with Cluster API and to measure it; Keyturn's programs do
// not use it.
package management

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/local/programs"
	"github.com/keyturn/keyturn/jwks"
)

// Options are what a management cluster is made of. All but Network and Images must be set.
type Options struct {
	// Dir holds all that is left on disk, that of machines too. It must be on a file system that overlayfs can use.
	Dir string
	// Network is an IPv4 /16 that nothing else on the host uses; zero: the one that the management cluster has. That gets
	// its lower half, and Cluster API and the clusters that it makes the upper one.
	Network netip.Prefix
	// Version is the version of Kubernetes, such as "v1.36.4", and KubeBinDir has its programs.
	Version, KubeBinDir string
	// CAPIBinDir is the output of `make capi`, and ProgramDir has Keyturn's own programs.
	CAPIBinDir, ProgramDir string
	// Images is a directory of archives (*.tar) that every machine imports; empty: none.
	Images string
}

// Cluster is the management cluster of a directory, which need not exist yet.
type Cluster struct {
	opts Options
	host *plane.Host
	capi *capi.Management
}

// patience limits each wait for processes to start or to end.
const patience = 5 * time.Minute

// Open checks the options, and that what the directory holds was made by this package. It makes nothing.
func Open(o Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a management cluster whose clusters have nodes needs root")
	}
	for _, path := range []*string{&o.Dir, &o.KubeBinDir, &o.CAPIBinDir, &o.ProgramDir, &o.Images} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = absolute
	}
	data, err := datadir.Open(filepath.Join(o.Dir, "host"), o.Network, false)
	if err != nil {
		return nil, err
	}
	found, err := programs.New(o.KubeBinDir, o.ProgramDir)
	if err != nil {
		return nil, err
	}
	octets := data.Network().Addr().As4()
	octets[2] = 128
	return &Cluster{o, plane.New(data, found, nil), capi.New(capi.Options{
		Dir: filepath.Join(o.Dir, "capi"), Networks: netip.PrefixFrom(netip.AddrFrom4(octets), 17), BinDir: o.CAPIBinDir,
		KubeBinDir: o.KubeBinDir, ProgramDir: o.ProgramDir, Images: o.Images,
	})}, nil
}

// Kubeconfig is the file by which an administrator reaches the management cluster.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.opts.Dir, "kubeconfig") }

// description is what the control plane is made of. It is no object of any cluster.
func (c *Cluster) description() *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "host", Name: "management", UID: "management"},
		Spec: v1alpha1.UserClusterSpec{Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
			KubernetesVersion: c.opts.Version, ControlPlane: v1alpha1.ControlPlane{Replicas: 1},
			Network: v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
		}}},
	}
}

// Create makes the control plane, writes Kubeconfig, and starts Cluster API.
func (c *Cluster) Create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.startControlPlane(ctx); err != nil {
		return fmt.Errorf("creating the control plane of the management cluster: %w", err)
	}
	if err := c.writeKubeconfig(ctx); err != nil {
		return fmt.Errorf("creating the kubeconfig of the management cluster: %w", err)
	}
	config, err := c.config(ctx)
	if err == nil {
		err = c.capi.Start(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("starting Cluster API: %w", err)
	}
	return nil
}

// startControlPlane returns when etcd, the API server and the Kubernetes controllers work.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	key, err := keystore.Generate(rand.Reader, 1, jwks.ES256)
	if err != nil {
		return err
	}
	target := controlplane.Target{Keys: controlplane.Keys{Verify: []int{1}, Sign: 1}, ControllerManagerSign: 1}
	var state controlplane.State
	err = repeat(ctx, func() (done bool, err error) {
		control := c.host.ControlPlane(c.description())
		if err := control.Converge(ctx, target, []keystore.KeyPair{key}); err != nil {
			return false, err
		}
		state, err = control.Observe(ctx)
		return err == nil && ready(state), err
	})
	if err != nil {
		return fmt.Errorf("%w; last seen: %+v", err, state)
	}
	return nil
}

func ready(s controlplane.State) bool {
	return s.Waiting == "" && len(s.Servers) > 0 && len(s.ControllerManagers) > 0 &&
		!slices.ContainsFunc(s.Servers, func(s controlplane.Server) bool { return !s.Ready }) &&
		!slices.ContainsFunc(s.ControllerManagers, func(m controlplane.ControllerManager) bool { return !m.Ready })
}

// repeat calls a step until it is done.
func repeat(ctx context.Context, step func() (done bool, err error)) error {
	return wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) {
		return step()
	})
}

func (c *Cluster) writeKubeconfig(ctx context.Context) error {
	raw, err := c.host.ControlPlane(c.description()).AdminKubeconfig(ctx)
	if err != nil {
		return err
	}
	return atomicfile.Ensure(c.Kubeconfig(), raw)
}

// config reaches the management cluster as its administrator.
func (c *Cluster) config(ctx context.Context) (*rest.Config, error) {
	return c.host.ControlPlane(c.description()).Config(ctx, "")
}

// controllerName is the name of the controller's process, and of its files.
const controllerName = "keyturn-controller"

func (c *Cluster) runner() *process.Runner { return process.New(filepath.Join(c.opts.Dir, "run")) }

// StartController starts keyturn-controller with these flags. In the management cluster it is the user that it would be
// in a pod; the chart gives that its rights.
func (c *Cluster) StartController(flags ...string) error {
	path, err := c.host.Programs.Own(controllerName)
	if err != nil {
		return err
	}
	kubeconfig, err := c.controllerKubeconfig()
	if err != nil {
		return fmt.Errorf("making the kubeconfig of the controller: %w", err)
	}
	return c.runner().Start(process.Spec{Name: controllerName, Path: path, Args: append([]string{
		"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--metrics-bind-address=0", "--health-probe-bind-address=0",
	}, flags...)})
}

func (c *Cluster) controllerKubeconfig() (path string, err error) {
	uc := c.description()
	site, found, err := c.host.Data.Find(uc)
	if err != nil {
		return "", err
	}
	if !found {
		return "", errors.New("there is no management cluster yet")
	}
	layout := components.Layout{Site: site}
	authorities, err := layout.Authorities()
	if err != nil {
		return "", err
	}
	err = layout.EnsureCertificates([]components.Certificate{{
		By: authorities.Cluster, Name: controllerName,
		Request: pki.Request{CommonName: v1alpha1.ControllerUser, Client: true},
	}})
	if err != nil {
		return "", err
	}
	raw, err := pki.Kubeconfig(layout.Endpoint(), uc.Name, controllerName, authorities.Cluster.CertificatePEM(),
		layout.Pair(controllerName))
	if err != nil {
		return "", err
	}
	path = filepath.Join(c.opts.Dir, controllerName+".kubeconfig")
	return path, atomicfile.Ensure(path, raw)
}

// Log returns the last lines that the controller wrote.
func (c *Cluster) Log() string { return c.runner().LastLines(controllerName, 40) }

// stopGrace is how long the controller may take to end.
const stopGrace = 10 * time.Second

// Delete removes the management cluster and all machines of its clusters, as if their power failed. It can be repeated,
// and removes what an interrupted Create left.
func (c *Cluster) Delete(ctx context.Context) error {
	if _, err := os.Stat(c.opts.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.runner().Await(ctx, controllerName, stopGrace); err != nil {
		return err
	}
	if err := c.capi.Remove(ctx); err != nil {
		return fmt.Errorf("removing Cluster API and its machines: %w", err)
	}
	err := repeat(ctx, func() (bool, error) { return c.host.ControlPlane(c.description()).Delete(ctx) })
	if err != nil {
		return fmt.Errorf("deleting the management cluster: %w", err)
	}
	return os.RemoveAll(c.opts.Dir)
}
