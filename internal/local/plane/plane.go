package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/local/programs"
)

// Plane is one control plane on this host.
type Plane struct {
	components.Layout
	// Processes runs its processes.
	Processes *process.Runner
	host      *Host
	lb        loadBalancer
}

// layoutOf returns what determines a control plane, except its site.
func layoutOf(uc *v1alpha1.UserCluster) (components.Layout, error) {
	local := uc.Spec.Infrastructure.Local
	service, err := netip.ParsePrefix(local.Network.ServiceCIDR)
	if err != nil {
		return components.Layout{}, fmt.Errorf("cluster %s: network.serviceCIDR: %w", uc.Name, err)
	}
	pod, err := netip.ParsePrefix(local.Network.PodCIDR)
	if err != nil {
		return components.Layout{}, fmt.Errorf("cluster %s: network.podCIDR: %w", uc.Name, err)
	}
	return components.Layout{
		Version: local.KubernetesVersion, ServiceCIDR: service, PodCIDR: pod, Replicas: int(local.ControlPlane.Replicas),
		Issuer: cmp.Or(uc.Spec.KSASigningKey.Issuer, v1alpha1.DefaultIssuer),
	}, nil
}

// Plane returns the control plane of a layout, which need not exist yet.
func (h *Host) Plane(l components.Layout) *Plane {
	return &Plane{Layout: l, host: h, Processes: h.Runner(l.Site), lb: loadBalancer{dir: l.Path("run")}}
}

// ensureNetwork makes the bridge with the addresses of the load balancer and the API servers. On loopback they always
// exist.
func (p *Plane) ensureNetwork(ctx context.Context) error {
	if p.Loopback {
		return nil
	}
	addrs := []netip.Prefix{netip.PrefixFrom(p.Gateway(), 24), netip.PrefixFrom(p.LoadBalancer(), 32)}
	for i := range p.Replicas {
		addrs = append(addrs, netip.PrefixFrom(p.APIServer(i), 32))
	}
	return network.EnsureBridge(ctx, p.host.Data.ID(), p.Bridge(), addrs...)
}

// ensureFiles writes everything that the processes read except the signing keys.
func (p *Plane) ensureFiles() error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return fmt.Errorf("making directory of cluster %s: %w", p.Name, err)
	}
	a, err := p.Authorities()
	if err != nil {
		return err
	}
	if err := p.EnsureCertificates(append(p.Certificates(a), p.ControllerCertificates(a)...)); err != nil {
		return err
	}
	return errors.Join(
		p.EnsureKubeconfigs(a, "controller-manager", "scheduler"),
		atomicfile.Ensure(p.Path("authentication.yaml"), []byte(components.AuthenticationConfig)),
		atomicfile.Ensure(p.Path("admission.yaml"), []byte(components.AdmissionConfig)),
		atomicfile.Ensure(p.Path("haproxy.cfg"), []byte(p.HAProxyConfig())),
	)
}

// EnsureProcess starts a process of the Kubernetes version, unless it runs. It checks the version only of what it
// starts.
func (p *Plane) EnsureProcess(binary string, spec func(path string) process.Spec) error {
	path, err := p.host.Programs.Find(p.Version, binary)
	if err != nil {
		return err
	}
	s := spec(path)
	st, err := p.Processes.Observe(s.Name)
	if err != nil || st.Running || p.Processes.BackOff(s.Name) > 0 {
		return err
	}
	if err := p.host.Programs.Check(p.Version, path); err != nil {
		return err
	}
	return p.StartProcess(s)
}

// StartProcess starts a process, unless it runs or another process is starting it.
func (p *Plane) StartProcess(s process.Spec) error {
	before, err := p.Processes.Observe(s.Name)
	if err != nil || before.Running {
		return err
	}
	died := p.Processes.Died(s.Name)
	err = p.Processes.Start(s)
	if errors.Is(err, process.ErrBusy) {
		return nil // another process does it
	}
	if err == nil && p.Processes.BackOff(s.Name) == 0 {
		p.host.Log.Info("started process", "cluster", p.Name, "process", s.Name)
		if died {
			p.host.Restarts.WithLabelValues(component(s.Name)).Inc()
		}
	}
	return err
}

// component returns the name of a process without the number of its replica.
func component(process string) string { return strings.TrimRight(process, "-0123456789") }

// EnsureEtcd starts etcd unless it runs. An etcd that is killed while it writes its first files never elects a leader.
// If it has not served yet, its files contain nothing, and are removed before it starts again.
func (p *Plane) EnsureEtcd() error {
	if !p.Has(programs.Etcd) {
		if err := atomicfile.Ensure(p.Path(unservedFile), nil); err != nil {
			return err
		}
	}
	return p.EnsureProcess(programs.Etcd, func(path string) process.Spec {
		s := p.EtcdProcess(path)
		if p.Has(unservedFile) {
			s.Clear = p.Path(programs.Etcd)
		}
		return s
	})
}

// unservedFile exists until etcd has served for the first time.
const unservedFile = "etcd.unserved"

// NoteServed records that etcd serves, since an API server does. From then on its files are kept, so nothing may be
// stored before.
func (p *Plane) NoteServed() error {
	if err := os.Remove(p.Path(unservedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping the files of etcd: %w", err)
	}
	return nil
}

func (p *Plane) ensureLoadBalancer() error {
	path, err := programs.FindHAProxy()
	if err != nil {
		return err
	}
	return p.StartProcess(p.HAProxyProcess(path))
}

// begun reports whether some API server ever got keys or was started. Until then nobody has a token of the cluster.
func (p *Plane) begun() (bool, error) {
	names, err := p.Processes.Names()
	if err != nil {
		return false, err
	}
	for i := range p.Replicas {
		held, err := p.APIServerKeys(i).Configured()
		if err != nil || !held.IsZero() || slices.Contains(names, components.APIServerName(i)) {
			return true, err
		}
	}
	return false, nil
}
