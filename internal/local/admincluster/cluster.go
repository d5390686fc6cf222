package admincluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/programs"
)

// Options describe where and how the clusters of this host are kept.
type Options struct {
	// DataDir holds everything. It is created with mode 0700 if it is missing. An existing one must belong to the
	// caller, be writable by nobody else, and be empty or marked as Keyturn's.
	DataDir string
	// KubeBinDir holds the Kubernetes binaries and etcd, in one folder per version ("v1.36.4") or, like official
	// releases, directly. Empty: the folder kube next to this executable.
	KubeBinDir string
	// ProgramDir holds keyturn-local, keyturn-controller and keyturn-fleet; empty: the folder of this executable.
	ProgramDir string
	// Network is an IPv4 /16; zero: datadir.DefaultNetwork.
	Network netip.Prefix
	// Loopback makes no bridges for new clusters, which then cannot have nodes. It is implied without root.
	Loopback bool
	// Log receives what is done; nil: no log.
	Log *slog.Logger
	// Metrics registers the metrics of Run; nil: there are none.
	Metrics prometheus.Registerer
}

// Cluster is the admin cluster of a data directory, which need not exist yet.
type Cluster struct {
	host    *plane.Host
	metrics prometheus.Registerer
	// mu is held to start processes of the admin cluster.
	mu sync.Mutex
}

// Open checks the options, and that the data directory is, or can become, Keyturn's. It creates and starts nothing.
func Open(o Options) (*Cluster, error) {
	data, errData := datadir.Open(o.DataDir, o.Network, o.Loopback)
	found, errPrograms := programs.New(o.KubeBinDir, o.ProgramDir)
	if err := errors.Join(errData, errPrograms); err != nil {
		return nil, err
	}
	return &Cluster{host: plane.New(data, found, o.Log), metrics: o.Metrics}, nil
}

// AdminConfig reaches the admin cluster as its administrator. It fails if there is none yet.
func (c *Cluster) AdminConfig() (*rest.Config, error) {
	p, err := c.parts()
	if err != nil {
		return nil, err
	}
	return p.RESTConfig(p.APIServerURL(0))
}

// Site returns the directory and addresses of the admin cluster.
func (c *Cluster) Site() datadir.Site { return c.host.Data.AdminSite() }

// hostSite returns the site on which the fleet and keyturn-local listen.
func (c *Cluster) hostSite() datadir.Site { return c.host.Data.HostSite() }

// parts are the admin cluster's control plane, and the programs next to it.
type parts struct {
	*Cluster
	*plane.Plane
}

// Version is the Kubernetes version of the admin cluster, unless KubeBinDir itself holds the binaries of another one.
const Version = "v1.36.4"

// parts returns the admin cluster as a control plane of one API server, without load balancer or Kubernetes
// controllers.
func (c *Cluster) parts() (*parts, error) {
	version, err := c.host.Programs.Available(Version)
	if err != nil {
		return nil, err
	}
	return &parts{c, c.host.Plane(components.Layout{
		Site: c.Site(), Version: version, Replicas: 1, Encrypted: true, Issuer: v1alpha1.DefaultIssuer,
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/20"),
	})}, nil
}

// ensureBridge makes the bridge of the host's site. On loopback the addresses always exist.
func (c *Cluster) ensureBridge(ctx context.Context) error {
	site := c.hostSite()
	if site.Loopback {
		return nil
	}
	address := func(last byte) netip.Prefix { return netip.PrefixFrom(site.Address(last), 32) }
	return network.EnsureBridge(ctx, c.host.Data.ID(), site.Bridge(), address(fleetLocal), address(localLocal))
}

// removeBridge removes the bridge of the host's site, once nothing listens on it.
func (c *Cluster) removeBridge(ctx context.Context) error {
	if site := c.hostSite(); !site.Loopback && c.host.Data.ID() != "" {
		return network.DeleteBridge(ctx, c.host.Data.ID(), site.Bridge())
	}
	return nil
}
