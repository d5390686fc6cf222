package datadir

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// Site is the directory and the addresses of one cluster on this host. Index 0 is the admin cluster's; user clusters
// have 1 to 254, which they keep for life.
type Site struct {
	Name  string
	Index int
	// Dir holds everything that the cluster stores on disk, with mode 0700.
	Dir string
	// Network is the host's range, a /16; the site has the /24 of its index. Control planes of clusters that can
	// have nodes listen on a bridge in it.
	Network netip.Prefix
	// Loopback means that the cluster has no bridge (no root, or the admin cluster), so its API servers listen on
	// loopback.
	Loopback bool
	// UID is the UID of the UserCluster; empty for the admin cluster.
	UID types.UID
}

// Bridge returns the name of the site's bridge, unique on the host and at most 15 bytes long.
func (s Site) Bridge() string {
	octets := s.Network.Addr().As4()
	return fmt.Sprintf("kt%d-%d-%d", octets[0], octets[1], s.Index)
}

// Prefix returns the site's /24.
func (s Site) Prefix() netip.Prefix { return netip.PrefixFrom(s.Address(0), 24) }

// Gateway returns the bridge's own address, the default route of the machines.
func (s Site) Gateway() netip.Addr { return s.Address(1) }

// LoadBalancer returns the address that clients reach the API servers at.
func (s Site) LoadBalancer() netip.Addr { return s.Address(10) }

// APIServer returns the address of the i-th API server, from 0.
func (s Site) APIServer(i int) netip.Addr { return s.Address(11 + byte(i)) }

// Machine returns the address of the machine in slot i, from 0 to 149.
func (s Site) Machine(i int) netip.Addr { return s.Address(100 + byte(i)) }

// Local returns a loopback address for what only this host may reach: etcd (2), the load balancer's health (3), the
// i-th kube-controller-manager (20+i), the i-th kube-scheduler (30+i) ….
func (s Site) Local(last byte) netip.Addr {
	octets := s.Network.Addr().As4()
	return netip.AddrFrom4([4]byte{127, octets[1], byte(s.Index), last})
}

// Has reports whether a path exists below the site's directory.
func (s Site) Has(elem ...string) bool {
	_, err := os.Stat(s.Path(elem...))
	return err == nil
}

// Path joins names below the site's directory.
func (s Site) Path(elem ...string) string { return filepath.Join(append([]string{s.Dir}, elem...)...) }

// Address returns the address of the site with this last byte.
func (s Site) Address(last byte) netip.Addr {
	if s.Loopback {
		return s.Local(last)
	}
	octets := s.Network.Addr().As4()
	return netip.AddrFrom4([4]byte{octets[0], octets[1], byte(s.Index), last})
}
