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

// Options say where and how the clusters of this host are kept.
type Options struct {
	// DataDir holds everything: made with mode 0700 when it is not there. One that is there must be the caller's, writable
	// by nobody else, and empty or marked as Keyturn's.
	DataDir string
	// KubeBinDir holds the Kubernetes binaries and etcd, in one folder a version ("v1.36.4") or, as official
	// releases come, in itself. Empty: the folder kube beside this executable.
	KubeBinDir string
	// ProgramDir holds keyturn-local, keyturn-controller and keyturn-fleet; empty: the folder of this executable.
	ProgramDir string
	// Network is an IPv4 /16; zero: datadir.DefaultNetwork.
	Network netip.Prefix
	// Loopback keeps new clusters off bridges; they can have no nodes then. It is implied without root.
	Loopback bool
	// Log gets what is done; nil: nothing is logged.
	Log *slog.Logger
	// Metrics gets the metrics of Run; nil: nobody does.
	Metrics prometheus.Registerer
}

// Cluster is the admin cluster of a data directory, whether it was made yet or not.
type Cluster struct {
	host    *plane.Host
	metrics prometheus.Registerer
	// mu serializes what starts processes of the admin cluster.
	mu sync.Mutex
}

// Open checks the options, and that the data directory is Keyturn's or can become it. It makes and starts nothing.
func Open(o Options) (*Cluster, error) {
	data, errData := datadir.Open(o.DataDir, o.Network, o.Loopback)
	found, errPrograms := programs.New(o.KubeBinDir, o.ProgramDir)
	if err := errors.Join(errData, errPrograms); err != nil {
		return nil, err
	}
	return &Cluster{host: plane.New(data, found, o.Log), metrics: o.Metrics}, nil
}

// AdminConfig reaches the admin cluster as its administrator. It fails when there is none yet.
func (c *Cluster) AdminConfig() (*rest.Config, error) {
	p, err := c.parts()
	if err != nil {
		return nil, err
	}
	return p.RESTConfig(p.APIServerURL(0))
}

// Site is the admin cluster's place.
func (c *Cluster) Site() datadir.Site { return c.host.Data.AdminSite() }

// hostSite is where the fleet and keyturn-local listen.
func (c *Cluster) hostSite() datadir.Site { return c.host.Data.HostSite() }

// parts are the admin cluster's control plane, and what runs beside it.
type parts struct {
	*Cluster
	*plane.Plane
}

// Version is the Kubernetes version of the admin cluster, unless KubeBinDir itself holds the binaries of another one.
const Version = "v1.36.4"

// parts is the admin cluster as a control plane of one API server, without load balancer or controllers of Kubernetes'
// own.
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

// ensureBridge makes the bridge of the host's site. On loopback the addresses are there anyway.
func (c *Cluster) ensureBridge(ctx context.Context) error {
	site := c.hostSite()
	if site.Loopback {
		return nil
	}
	address := func(last byte) netip.Prefix { return netip.PrefixFrom(site.Address(last), 32) }
	return network.EnsureBridge(ctx, c.host.Data.ID(), site.Bridge(), address(fleetLocal), address(localLocal))
}

// removeBridge removes the bridge of the host's site, on which nothing listens any more.
func (c *Cluster) removeBridge(ctx context.Context) error {
	if site := c.hostSite(); !site.Loopback && c.host.Data.ID() != "" {
		return network.DeleteBridge(ctx, c.host.Data.ID(), site.Bridge())
	}
	return nil
}
