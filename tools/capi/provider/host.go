package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/tools/capi/api/v1alpha1"
)

// Host is where the machines are.
type Host struct {
	// DataDir has a directory for each LocalCluster, named by its id.
	DataDir string
	// KubeBinDir has the Kubernetes programs of one version, and BinDir keyturn-machine and keyturn-pause.
	KubeBinDir, BinDir string
	// Images is a directory of archives (*.tar) that every machine imports besides those that it needs; empty: none.
	Images string
	// Networks is the range of which a LocalCluster without a network gets a free /24.
	Networks netip.Prefix
	// Version is the version of the Kubernetes programs, such as v1.36.4.
	Version string
}

// ReadVersion asks the kubelet for the version of Kubernetes.
func (h *Host) ReadVersion() error {
	out, err := exec.Command(filepath.Join(h.KubeBinDir, "kubelet"), "--version").Output()
	if err != nil {
		return fmt.Errorf("reading the version of the Kubernetes programs in %s: %w", h.KubeBinDir, err)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "Kubernetes ")
	if !ok {
		return fmt.Errorf("reading the version of the Kubernetes programs in %s: the kubelet printed %q", h.KubeBinDir, out)
	}
	h.Version = version
	return nil
}

// lock keeps other goroutines and other providers from using the data directory: addresses and slots of machines are
// found by reading which are taken. unlock gives it back.
func (h *Host) lock() (unlock func(), err error) {
	if err := os.MkdirAll(h.DataDir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(h.DataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// open returns what a LocalCluster has on the host. Its directory is marked with the cluster's name, so that nobody
// reaches the machines of another cluster by its id.
func (h *Host) open(local *v1alpha1.LocalCluster) (*kubeadm.Cluster, error) {
	prefix, err := netip.ParsePrefix(local.Spec.Network)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(h.DataDir, local.Spec.ID)
	if err := mark(dir, local); err != nil {
		return nil, err
	}
	return kubeadm.Open(kubeadm.Options{
		Name: local.Name, Dir: dir, Network: prefix, Version: h.Version,
		KubeBinDir: h.KubeBinDir, BinDir: h.BinDir, Images: h.Images,
	})
}

// mark makes the directory of a LocalCluster, or verifies that it is its own. A name outlives clusterctl move, which a
// UID does not.
func mark(dir string, local *v1alpha1.LocalCluster) error {
	want, err := json.Marshal(map[string]string{"namespace": local.Namespace, "name": local.Name})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "localcluster.json")
	got, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return atomicfile.Ensure(path, want)
	}
	if err == nil && !bytes.Equal(got, want) {
		return fmt.Errorf("directory %s belongs to another LocalCluster: %s", dir, got)
	}
	return err
}

// freeNetwork returns a /24 of the host's range that none of its interfaces has, and none of the LocalClusters.
func (h *Host) freeNetwork(clusters []v1alpha1.LocalCluster) (netip.Prefix, error) {
	taken, err := interfaceNetworks()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, c := range clusters {
		if prefix, err := netip.ParsePrefix(c.Spec.Network); err == nil {
			taken = append(taken, prefix)
		}
	}
	for free := netip.PrefixFrom(h.Networks.Masked().Addr(), 24); h.Networks.Contains(free.Addr()); free = next(free) {
		if !overlapsAny(free, taken) {
			return free, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no /24 of %s is free", h.Networks)
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// next is the /24 after an IPv4 /24; after the last one there is 0.0.0.0/24.
func next(p netip.Prefix) netip.Prefix {
	octets := p.Addr().As4()
	for i := 2; i >= 0; i-- {
		if octets[i]++; octets[i] != 0 {
			break
		}
	}
	return netip.PrefixFrom(netip.AddrFrom4(octets), 24)
}

func interfaceNetworks() ([]netip.Prefix, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the networks of this host: %w", err)
	}
	var all []netip.Prefix
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}
