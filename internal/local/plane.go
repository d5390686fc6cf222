package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/process"
)

// plane is one control plane on this host: what it is to be, and by what it is run.
type plane struct {
	layout
	host *Host
	run  *process.Runner
	lb   loadBalancer
}

// layoutOf is what a control plane follows from, all but its site.
func layoutOf(uc *v1alpha1.UserCluster) (layout, error) {
	local := uc.Spec.Infrastructure.Local
	service, err := netip.ParsePrefix(local.Network.ServiceCIDR)
	if err != nil {
		return layout{}, fmt.Errorf("cluster %s: network.serviceCIDR: %w", uc.Name, err)
	}
	pod, err := netip.ParsePrefix(local.Network.PodCIDR)
	if err != nil {
		return layout{}, fmt.Errorf("cluster %s: network.podCIDR: %w", uc.Name, err)
	}
	return layout{
		Version: local.KubernetesVersion, ServiceCIDR: service, PodCIDR: pod, Replicas: int(local.ControlPlane.Replicas),
		Issuer: cmp.Or(uc.Spec.KSASigningKey.Issuer, v1alpha1.DefaultIssuer),
	}, nil
}

func (h *Host) newPlane(l layout) *plane {
	return &plane{layout: l, host: h, run: h.Runner(l.Site), lb: loadBalancer{dir: l.Path("run")}}
}

// ensureNetwork makes the bridge with the addresses of the load balancer and the API servers. On loopback they are
// there anyway.
func (p *plane) ensureNetwork(ctx context.Context) error {
	if p.Loopback {
		return nil
	}
	addrs := []netip.Prefix{netip.PrefixFrom(p.Gateway(), 24), netip.PrefixFrom(p.LoadBalancer(), 32)}
	for i := range p.Replicas {
		addrs = append(addrs, netip.PrefixFrom(p.APIServer(i), 32))
	}
	return network.EnsureBridge(ctx, p.host.ID(), p.Bridge(), addrs...)
}

// ensureFiles writes all that the processes read but the signing keys.
func (p *plane) ensureFiles() error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return fmt.Errorf("making directory of cluster %s: %w", p.Name, err)
	}
	a, err := p.authorities()
	if err != nil {
		return err
	}
	if err := p.ensureCertificates(append(p.certificates(a), p.controllerCertificates(a)...)); err != nil {
		return err
	}
	return errors.Join(
		p.ensureKubeconfigs(a, "controller-manager", "scheduler"),
		atomicfile.Ensure(p.Path("authentication.yaml"), []byte(authenticationConfig)),
		atomicfile.Ensure(p.Path("admission.yaml"), []byte(admissionConfig)),
		atomicfile.Ensure(p.Path("haproxy.cfg"), []byte(p.haproxyConfig())),
	)
}

// ensure starts a process of the Kubernetes version, unless it runs. It asks for the version only of what it starts.
func (p *plane) ensure(binary string, spec func(path string) process.Spec) error {
	path, err := p.host.findBinary(p.Version, binary)
	if err != nil {
		return err
	}
	s := spec(path)
	st, err := p.run.Observe(s.Name)
	if err != nil || st.Running || p.run.BackOff(s.Name) > 0 {
		return err
	}
	if err := p.host.checkVersion(p.Version, path); err != nil {
		return err
	}
	return p.start(s)
}

func (p *plane) start(s process.Spec) error {
	before, err := p.run.Observe(s.Name)
	if err != nil || before.Running {
		return err
	}
	err = p.run.Start(s)
	if errors.Is(err, process.ErrBusy) {
		return nil // somebody else does it
	}
	if err == nil && p.run.BackOff(s.Name) == 0 {
		p.host.log.Info("started process", "cluster", p.Name, "process", s.Name)
	}
	return err
}

// ensureEtcd starts etcd unless it runs. An etcd that is killed while it writes its first files never elects a leader:
// those of one that has not served yet, in which nothing is, are removed before it starts again.
func (p *plane) ensureEtcd() error {
	if !exists(p.Path(binaryEtcd)) {
		if err := atomicfile.Ensure(p.Path(unservedFile), nil); err != nil {
			return err
		}
	}
	return p.ensure(binaryEtcd, func(path string) process.Spec {
		s := p.etcd(path)
		if exists(p.Path(unservedFile)) {
			s.Clear = p.Path(binaryEtcd)
		}
		return s
	})
}

// unservedFile is there until etcd has served for the first time.
const unservedFile = "etcd.unserved"

// noteServed records that etcd serves, since an API server does. From here on its files are kept, so nothing may be stored
// before.
func (p *plane) noteServed() error {
	if err := os.Remove(p.Path(unservedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping the files of etcd: %w", err)
	}
	return nil
}

func (p *plane) ensureLoadBalancer() error {
	path, err := findHAProxy()
	if err != nil {
		return err
	}
	return p.start(p.haproxy(path))
}

// findHAProxy looks where Debian puts it too, which is not on every user's PATH.
func findHAProxy() (string, error) {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no haproxy on this host\nhint: install the package haproxy")
}

// begun reports whether some API server was ever given keys or started. Until then nobody has a token of the cluster.
func (p *plane) begun() (bool, error) {
	names, err := p.run.Names()
	if err != nil {
		return false, err
	}
	for i := range p.Replicas {
		held, err := p.apiServerKeys(i).Configured()
		if err != nil || !held.IsZero() || slices.Contains(names, apiServerName(i)) {
			return true, err
		}
	}
	return false, nil
}
