// Package simulated has user clusters that exist in memory only, to measure a controller with more of them than a
// machine can run. The controller is the real one and reaches them as it reaches local clusters, by package remote.
// What is simulated is the control planes, and of each API server only what the controller asks it.
//
// A simulated API server signs with the key that it was given, and accepts tokens by their kid alone.
//
// Host has local clusters, and ClusterAPI those of Cluster API, which the controller finds in a management cluster.
package simulated

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubeconfig"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

// Host has clusters, and serves them as keyturn-local serves those of its host.
type Host struct {
	dir  string
	ca   *pki.Authority
	pair struct{ cert, key []byte }
	// servers is the address of all API servers: the path of a URL tells them apart.
	servers net.Listener
	local   net.Listener

	mu       sync.Mutex
	clusters map[string]*cluster
}

// cluster is the truth about one.
type cluster struct {
	servers []server
	manager int
	// keys are those on the machines.
	keys []keystore.KeyPair
	// silent has its API servers answer nothing.
	silent bool
}

type server struct {
	name string
	keys controlplane.Keys
}

// Serve makes a host without clusters, with its files in a directory, and serves it until ctx ends.
func Serve(ctx context.Context, dir string) (*Host, error) {
	h := &Host{dir: dir, clusters: map[string]*cluster{}}
	if err := h.issue(); err != nil {
		return nil, err
	}
	var err error
	if h.servers, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if h.local, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	remoteServer := &remote.Server{
		ControlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) { return plane{h, uc}, nil },
		Machines:     func(*v1alpha1.UserCluster) (remote.Machines, error) { return noMachines{}, nil },
		Credentials: remote.Credentials{
			Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key"), CA: filepath.Join(dir, "ca.crt"),
		},
	}
	apiServers := &http.Server{Handler: http.HandlerFunc(h.serveAPI), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = apiServers.Close() })
	go func() { _ = remoteServer.Serve(ctx, h.local) }()
	go func() {
		_ = apiServers.ServeTLS(h.servers, filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	}()
	return h, nil
}

// issue makes the certificates of the servers, and of the client, which is in Credentials.
func (h *Host) issue() (err error) {
	if h.ca, err = pki.EnsureAuthority(h.dir, "ca", "simulated-ca"); err != nil {
		return err
	}
	at := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	_, serverErr := h.ca.Ensure(h.dir, "server", pki.Request{CommonName: "server", Server: true, Addresses: at})
	pair, clientErr := h.ca.Ensure(h.Credentials(), "tls", pki.Request{CommonName: "client", Client: true})
	err = errors.Join(serverErr, clientErr,
		atomicfile.Write(filepath.Join(h.Credentials(), "ca.crt"), h.ca.CertificatePEM()))
	if err != nil {
		return err
	}
	if h.pair.cert, err = os.ReadFile(pair.CertFile); err != nil {
		return err
	}
	h.pair.key, err = os.ReadFile(pair.KeyFile)
	return err
}

// Endpoint is for the controller's --local-endpoint, and Credentials for --local-credentials.
func (h *Host) Endpoint() string { return "https://" + h.local.Addr().String() }

// Credentials is the directory of those of a client.
func (h *Host) Credentials() string { return filepath.Join(h.dir, "client") }

// APIServers is the address of all API servers.
func (h *Host) APIServers() string { return h.servers.Addr().String() }

// Silence has the API servers of some clusters answer nothing.
func (h *Host) Silence(names ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range names {
		if c := h.clusters[name]; c != nil {
			c.silent = true
		}
	}
}

// plane is the control plane of one cluster.
type plane struct {
	*Host
	uc *v1alpha1.UserCluster
}

// Observe implements controlplane.Adapter.
func (p plane) Observe(context.Context) (controlplane.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clusters[p.uc.Name]
	if c == nil {
		return controlplane.State{Presence: rotation.PresenceAbsent}, nil
	}
	state := controlplane.State{Presence: rotation.PresencePresent, Endpoint: p.url(c.servers[0].name)}
	for _, s := range c.servers {
		state.Servers = append(state.Servers, controlplane.Server{
			Name: s.name, Endpoint: p.url(s.name), Configured: s.keys, Running: s.keys, Ready: true,
		})
	}
	for _, k := range c.keys {
		state.Held = append(state.Held, k.Version)
	}
	slices.Sort(state.Held)
	state.ControllerManagers = []controlplane.ControllerManager{{
		Name: "controller-manager-0", Configured: c.manager, Running: c.manager, Ready: true,
	}}
	return state, nil
}

// Converge implements controlplane.Adapter.
func (p plane) Converge(_ context.Context, target controlplane.Target, keys []keystore.KeyPair) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clusters[p.uc.Name]
	if c == nil {
		c = &cluster{manager: target.ControllerManagerSign}
		for i := range p.uc.Spec.Infrastructure.Local.ControlPlane.Replicas {
			c.servers = append(c.servers, server{"apiserver-" + strconv.Itoa(int(i)), target.Keys})
		}
		p.clusters[p.uc.Name] = c
	}
	c.keys, c.manager = keys, target.ControllerManagerSign
	for i := range c.servers {
		if target.Live || target.Next == c.servers[i].name {
			c.servers[i].keys = target.Keys
		}
	}
	return nil
}

func (p plane) url(server string) string {
	return fmt.Sprintf("https://%s/%s/%s", p.APIServers(), p.uc.Name, server)
}

// Ledger implements controlplane.Adapter.
func (plane) Ledger(context.Context, string) (ledger.Report, error) {
	return ledger.Report{}, controlplane.ErrNoLedger
}

// Config implements controlplane.Adapter.
func (p plane) Config(_ context.Context, server string) (*rest.Config, error) {
	if server == "" {
		server = "apiserver-0"
	}
	return &rest.Config{Host: p.url(server), QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: p.ca.CertificatePEM(), CertData: p.pair.cert, KeyData: p.pair.key,
	}}, nil
}

// AdminKubeconfig implements controlplane.Adapter.
func (p plane) AdminKubeconfig(context.Context) ([]byte, error) {
	return kubeconfig.Access{
		Server: p.url("apiserver-0"), CertificateAuthority: p.ca.CertificatePEM(), Certificate: p.pair.cert, Key: p.pair.key,
	}.File(p.uc.Name, "admin")
}

// Delete implements controlplane.Adapter.
func (p plane) Delete(context.Context) (gone bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.clusters, func(name string, _ *cluster) bool { return name == p.uc.Name })
	return true, nil
}

// noMachines are the machines of a cluster without nodes.
type noMachines struct{}

var errNoMachines = errors.New("simulated clusters have no machines")

func (noMachines) List(context.Context) ([]nodes.Machine, error) { return nil, nil }
func (noMachines) Remove(context.Context, string) (bool, error)  { return true, nil }
func (noMachines) Remember(context.Context, nodes.Machine) error { return errNoMachines }
func (noMachines) RestartKubelet(context.Context, string) error  { return errNoMachines }
func (noMachines) Ensure(context.Context, nodes.Machine, v1alpha1.NodePool) error {
	return errNoMachines
}

func (noMachines) Tokens(context.Context, string, []nodes.TokenFile) ([]nodes.Token, error) {
	return nil, errNoMachines
}
