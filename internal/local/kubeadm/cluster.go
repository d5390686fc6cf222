package kubeadm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/machine"
	"github.com/keyturn/keyturn/internal/local/machine/guest"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/process"
)

// Options are what a cluster is made of. All but Images, Algorithm and CertificatesDir must be set.
type Options struct {
	// Name is the first part of the names of its machines.
	Name string
	// Dir holds all that the cluster leaves on disk. It must be on a file system that overlayfs can use.
	Dir string
	// Network is the /24 of its bridge, which nothing else on the host may use.
	Network netip.Prefix
	// Version is the version of Kubernetes, such as "v1.36.4", and KubeBinDir has its programs, kubeadm and coredns among
	// them.
	Version, KubeBinDir string
	// BinDir has Keyturn's own programs, such as keyturn-machine.
	BinDir string
	// Images is a directory of archives (*.tar) that every machine imports besides those that it needs; empty: none.
	Images string
	// Algorithm is kubeadm's encryptionAlgorithm, such as "ECDSA-P256"; empty means its default, RSA of 2048 bits.
	Algorithm string
	// CertificatesDir is kubeadm's certificatesDir; empty means its default.
	CertificatesDir string
}

// Cluster is a cluster that kubeadm makes, or has made, in a directory. It keeps nothing in memory that is not on disk.
type Cluster struct {
	opts  Options
	owner string
	join  credentials
}

// credentials are what a cluster is known by for as long as it exists.
type credentials struct {
	// Token is a bootstrap token, and CertificateKey encrypts what control-plane nodes share.
	Token          string `json:"token"`
	CertificateKey string `json:"certificateKey"`
	// Network is where it was made, for Remove.
	Network netip.Prefix `json:"network"`
}

// credentialsFile is the first file of a cluster.
const credentialsFile = "credentials.json"

// Role is what a machine is in its cluster.
type Role int

// The roles.
const (
	ControlPlane Role = iota
	Worker
)

// maxControlPlanes and maxMachines are how many machines of each role, and of all, a cluster has addresses for.
const (
	maxControlPlanes = 5
	maxMachines      = 20
)

// podCIDR and serviceCIDR are the same in every cluster: no packet from or to one of these leaves its cluster's
// machines.
var (
	podCIDR     = netip.MustParsePrefix("10.244.0.0/16")
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")
)

// apiServerPort is the port of the API servers and of the load balancer.
const apiServerPort = 6443

// Open returns the cluster in a directory. It makes nothing but the credentials of a new one.
func Open(o Options) (*Cluster, error) {
	c := &Cluster{opts: o}
	if !o.Network.Addr().Is4() || o.Network.Bits() != 24 {
		return nil, fmt.Errorf("opening cluster %s: network %s is not an IPv4 /24", o.Name, o.Network)
	}
	if err := c.readCredentials(); err != nil {
		return nil, fmt.Errorf("opening cluster %s: %w", o.Name, err)
	}
	sum := sha256.Sum256([]byte(c.join.CertificateKey + c.join.Token))
	c.owner = hex.EncodeToString(sum[:16])
	return c, nil
}

func (c *Cluster) readCredentials() error {
	if err := os.MkdirAll(c.opts.Dir, 0o700); err != nil {
		return err
	}
	path := c.path(credentialsFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		c.join = credentials{
			Token:          strings.ToLower(rand.Text()[:6] + "." + rand.Text()[:16]),
			CertificateKey: hex.EncodeToString(randomBytes(32)), Network: c.opts.Network,
		}
		if raw, err = json.Marshal(c.join); err == nil {
			err = atomicfile.Write(path, raw)
		}
		return err
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, &c.join)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.opts.Dir}, elem...)...)
}

// address is the i-th of the cluster's network: 1 is the bridge's, 10 the load balancer's, and 100 the first machine's.
func (c *Cluster) address(i int) netip.Addr {
	octets := c.opts.Network.Addr().As4()
	octets[3] = byte(i)
	return netip.AddrFrom4(octets)
}

func (c *Cluster) bridge() string {
	octets := c.opts.Network.Addr().As4()
	return fmt.Sprintf("ka%d-%d-%d", octets[0], octets[1], octets[2])
}

// Endpoint is the host and port of the load balancer.
func (c *Cluster) Endpoint() string {
	return netip.AddrPortFrom(c.address(10), apiServerPort).String()
}

// set is the machines of a role. All machines are in one directory; the roles differ in the images that they get.
func (c *Cluster) set(role Role) machine.Set {
	images := c.path("images", "worker")
	if role == ControlPlane {
		images = c.path("images", "control-plane")
	}
	return machine.Set{Dir: c.path("machines"), Owner: c.owner, Programs: machine.Programs{
		Init:    filepath.Join(c.opts.BinDir, "keyturn-machine"),
		Version: c.opts.Version,
		Find: func(_, name string) (string, error) {
			path := filepath.Join(c.opts.KubeBinDir, name)
			_, err := os.Stat(path)
			return path, err
		},
		Images: images,
	}}
}

// spec is the machine in a slot: control-plane nodes have those below maxControlPlanes.
func (c *Cluster) spec(name string, slot int) machine.Spec {
	address := c.address(100 + slot)
	range4 := podCIDR.Addr().As4()
	range4[2] = byte(slot)
	return machine.Spec{
		Name: name, Pool: c.opts.Name, KeyVersion: 1, Kubeadm: true, Slot: slot,
		Group: fmt.Sprintf("%s-%d", c.bridge(), slot),
		Port: network.Port{
			Link: fmt.Sprintf("ka%x", address.AsSlice()), Bridge: c.bridge(),
			Address: netip.PrefixFrom(address, 24), Gateway: c.address(1),
		},
		PodRange: netip.PrefixFrom(netip.AddrFrom4(range4), 24), PodCIDR: podCIDR,
	}
}

// routes lead to the pods of every slot.
func (c *Cluster) routes() []network.Route {
	var routes []network.Route
	for slot := range maxMachines {
		spec := c.spec("", slot)
		routes = append(routes, network.Route{To: spec.PodRange, Via: spec.Port.Address.Addr()})
	}
	return routes
}

// Start starts a machine that exists, or makes it in the first free slot of its role. Its kubelet starts once Init or
// Join made it a node.
func (c *Cluster) Start(ctx context.Context, name string, role Role) error {
	return c.Boot(ctx, name, role, Boot{})
}

// Boot is what a machine gets besides its name when it is made.
type Boot struct {
	// UserData is cloud-init user data by which the machine makes itself a node; see package cloudconfig.
	UserData []byte
	// ProviderID is the provider ID of its Node.
	ProviderID string
}

// Boot is Start for a machine that becomes a node by its user data; neither Init nor Join is needed then.
func (c *Cluster) Boot(ctx context.Context, name string, role Role, boot Boot) error {
	spec, err := c.place(name, role)
	if err != nil {
		return err
	}
	spec.ProviderID, spec.UserData = boot.ProviderID, len(boot.UserData) > 0
	if err := c.ensureImages(role); err != nil {
		return err
	}
	if err := c.StartNetwork(ctx); err != nil {
		return err
	}
	return c.set(role).Start(ctx, spec, machine.Access{UserData: boot.UserData, Routes: c.routes()})
}

// StartNetwork makes the bridge and starts the load balancer, if they are not there. Start and Boot do it too.
func (c *Cluster) StartNetwork(ctx context.Context) error {
	gateway := netip.PrefixFrom(c.address(1), 24)
	balancer := netip.PrefixFrom(c.address(10), 24)
	if err := network.EnsureBridge(ctx, c.owner, c.bridge(), gateway, balancer); err != nil {
		return err
	}
	return c.startLoadBalancer()
}

// Machine observes a machine; false: there is none of that name.
func (c *Cluster) Machine(name string) (machine.State, bool, error) { return c.set(Worker).Look(name) }

// Machines returns the names of the machines that exist.
func (c *Cluster) Machines() (names []string, err error) {
	states, err := c.set(Worker).List()
	for _, s := range states {
		names = append(names, s.Spec.Name)
	}
	return names, err
}

// FirstBoot returns what came of the user data of a machine; false as long as it has not been carried out.
func (c *Cluster) FirstBoot(name string) (guest.FirstBoot, bool, error) {
	return c.set(Worker).FirstBoot(name)
}

func (c *Cluster) place(name string, role Role) (machine.Spec, error) {
	states, err := c.set(role).List()
	if err != nil {
		return machine.Spec{}, err
	}
	taken := map[int]bool{}
	for _, s := range states {
		if s.Spec.Name == name {
			return s.Spec, nil
		}
		taken[s.Spec.Slot] = true
	}
	first, end := 0, maxControlPlanes
	if role == Worker {
		first, end = maxControlPlanes, maxMachines
	}
	for slot := first; slot < end; slot++ {
		if !taken[slot] {
			return c.spec(name, slot), nil
		}
	}
	return machine.Spec{}, fmt.Errorf("making machine %s: cluster %s has no address left for it", name, c.opts.Name)
}

// Halt ends a machine as if its power failed.
func (c *Cluster) Halt(name string) error { return c.set(Worker).Halt(name) }

// Remove removes a machine and its disk. The Node object and, of a control-plane node, the member of etcd are the
// caller's to remove before.
func (c *Cluster) Remove(ctx context.Context, name string) error {
	for {
		gone, err := c.set(Worker).Remove(ctx, name)
		if gone || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Run runs a command in a machine and returns what it printed. An error holds what it wrote to standard error.
func (c *Cluster) Run(ctx context.Context, name string, argv ...string) ([]byte, error) {
	cmd, err := c.set(Worker).Command(ctx, name, argv...)
	if err != nil {
		return nil, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("running %s on machine %s: %w: %s", argv[0], name, err, tail(string(out)+stderr.String()))
	}
	return out, nil
}

// tail returns the end of a text that may be long.
func tail(text string) string { return text[max(0, len(text)-4000):] }

// Config reaches the API servers by the load balancer, as the administrator that kubeadm makes.
func (c *Cluster) Config() (*rest.Config, error) {
	raw, err := c.Kubeconfig()
	if err != nil {
		return nil, err
	}
	return clientcmd.RESTConfigFromKubeConfig(raw)
}

// Kubeconfig returns the administrator's kubeconfig, which Init has kept.
func (c *Cluster) Kubeconfig() ([]byte, error) { return os.ReadFile(c.path("admin.conf")) }

// Delete removes the machines, the load balancer, the bridge and the directory.
func (c *Cluster) Delete(ctx context.Context) error {
	names, err := c.Machines()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.Remove(ctx, name); err != nil {
			return err
		}
	}
	if err := process.New(c.path("run")).Await(ctx, balancerName, time.Second); err != nil {
		return err
	}
	if err := network.DeleteBridge(ctx, c.owner, c.bridge()); err != nil {
		return err
	}
	return os.RemoveAll(c.opts.Dir)
}

// Remove deletes the cluster that is, or was about to be, in a directory.
func Remove(ctx context.Context, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, credentialsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(dir) // nothing was made yet
	}
	if err != nil {
		return err
	}
	var made credentials
	if err := json.Unmarshal(raw, &made); err != nil {
		return fmt.Errorf("reading the credentials of the cluster in %s: %w", dir, err)
	}
	c, err := Open(Options{Dir: dir, Network: made.Network})
	if err != nil {
		return err
	}
	return c.Delete(ctx)
}
