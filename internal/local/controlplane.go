package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

// ControlPlane runs the control plane of one user cluster as processes of this host: API servers that read their keys
// from files, or ask a signer beside them. It implements controlplane.Adapter.
type ControlPlane struct {
	host *Host
	// cluster and site are names of the cluster: that of its UserCluster, and that of its site.
	cluster, site string
	uid           types.UID
	// home identifies the data directory that the cluster lives in, as far as that is known.
	home   string
	layout layout
	// unusable is why nothing can be made of the cluster's spec. What needs none of it works.
	unusable error
}

var _ controlplane.Adapter = (*ControlPlane)(nil)

// ControlPlane returns the control plane of a local user cluster. A spec of which none can be made is an error of the
// methods that need it, and not of Delete.
func (h *Host) ControlPlane(uc *v1alpha1.UserCluster) *ControlPlane {
	c := &ControlPlane{host: h, cluster: uc.Name, site: SiteName(uc), uid: uc.UID, home: homeOf(uc)}
	c.layout, c.unusable = layoutOf(uc)
	return c
}

// find returns the site of the cluster; false when it has none. A directory that the registry does not know means that
// the registry is lost, and not that there is no cluster.
func (c *ControlPlane) find() (Site, bool, error) {
	if err := c.host.checkHome(c.cluster, c.home); err != nil {
		return Site{}, false, err
	}
	site, ok, err := c.host.Site(c.site)
	if err != nil {
		return Site{}, false, err
	}
	if ok {
		err := c.host.checkOwner(site, c.uid)
		return site, err == nil, err
	}
	dir := c.host.site(siteRecord{Name: c.site}).Dir
	switch _, err := os.Lstat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return Site{}, false, nil
	case err != nil:
		return Site{}, false, err
	}
	return Site{}, false, fmt.Errorf("%s exists, but the registry of clusters %s does not list it\nhint: restore the registry",
		dir, c.host.registryPath())
}

// at is the control plane at its site.
func (c *ControlPlane) at(site Site) (*plane, error) {
	if c.unusable != nil {
		return nil, c.unusable
	}
	l := c.layout
	l.Site = site
	return c.host.newPlane(l), nil
}

// existing returns the control plane; nil when none was ever made.
func (c *ControlPlane) existing() (*plane, error) {
	site, ok, err := c.find()
	if err != nil || !ok {
		return nil, err
	}
	p, err := c.at(site)
	if err != nil {
		return nil, err
	}
	if begun, err := p.begun(); err != nil || !begun {
		return nil, err
	}
	return p, nil
}

// Observe implements controlplane.Adapter.
func (c *ControlPlane) Observe(ctx context.Context) (controlplane.State, error) {
	p, err := c.existing()
	if err != nil {
		return controlplane.State{}, fmt.Errorf("observing control plane of cluster %s: %w", c.cluster, err)
	}
	if p == nil {
		return controlplane.State{Presence: rotation.PresenceAbsent}, nil
	}
	v, err := p.look(ctx)
	if err != nil {
		return controlplane.State{}, fmt.Errorf("observing control plane of cluster %s: %w", c.cluster, err)
	}
	state := v.state(p.endpoint())
	state.Home = c.host.ID()
	return state, nil
}

func (v view) state(endpoint string) controlplane.State {
	state := controlplane.State{
		Presence: rotation.PresencePresent, Endpoint: endpoint, Waiting: strings.Join(v.waiting, "; "),
	}
	for _, s := range v.servers {
		state.Servers = append(state.Servers, s.Server)
		state.Held = append(state.Held, s.held...)
	}
	for _, m := range v.managers {
		state.ControllerManagers = append(state.ControllerManagers, m.ControllerManager)
		state.Held = append(state.Held, m.held...)
	}
	slices.Sort(state.Held)
	state.Held = slices.Compact(state.Held)
	return state
}

// Converge implements controlplane.Adapter. An API server is given other keys in this order: the keys as files, what it
// is to run with, out of the load balancer, end, start, ready, back into the load balancer. If it has a signer: what it
// is to run with, and then the keys to the signer. What was done is seen from outside, so that each call finds its
// place in it again.
func (c *ControlPlane) Converge(ctx context.Context, target controlplane.Target, keys []keystore.KeyPair) error {
	if err := staleness(c.converge(ctx, target, hostKeys(keys))); err != nil {
		return fmt.Errorf("converging control plane of cluster %s: %w", c.cluster, err)
	}
	return nil
}

// staleness makes an error one of the port if somebody has acted on a later plan since the target was compared.
func staleness(err error) error {
	if errors.Is(err, hostkeys.ErrStale) {
		return fmt.Errorf("%w: %w", controlplane.ErrStale, err)
	}
	return err
}

// hostKeys are the keys as package hostkeys takes them.
func hostKeys(keys []keystore.KeyPair) []hostkeys.Key {
	var list []hostkeys.Key
	for _, k := range keys {
		list = append(list, hostkeys.Key{Version: k.Version, Signer: k.Signer})
	}
	return list
}

func (c *ControlPlane) converge(ctx context.Context, target controlplane.Target, keys []hostkeys.Key) error {
	p, err := c.ensureSite()
	if err != nil {
		return err
	}
	if err := errors.Join(p.ensureNetwork(ctx), p.ensureFiles()); err != nil {
		return err
	}
	v, err := p.look(ctx)
	if err != nil {
		return err
	}
	if err := v.refuseStale(target); err != nil {
		return err
	}
	if v.anyHealthy() {
		if err := p.noteServed(); err != nil {
			return err
		}
	}
	if err := p.ensureEtcd(); err != nil {
		return err
	}
	// What one process lacks does not hold up the others.
	errs := []error{p.convergeServers(ctx, v, target, keys), p.ensureLoadBalancer()}
	if v.anyHealthy() {
		errs = append(errs, p.convergeManagers(v, target.ControllerManagerSign, keys), p.ensureSchedulers())
		p.bootstrap(ctx, v)
	}
	return errors.Join(errs...)
}

func (c *ControlPlane) ensureSite() (*plane, error) {
	if _, _, err := c.find(); err != nil {
		return nil, err
	}
	site, err := c.host.EnsureSite(c.site, c.uid)
	if err != nil {
		return nil, err
	}
	return c.at(site)
}

// Config implements controlplane.Adapter.
func (c *ControlPlane) Config(_ context.Context, server string) (*rest.Config, error) {
	p, err := c.made()
	if err != nil {
		return nil, err
	}
	if server == "" {
		return p.restConfig(p.endpoint())
	}
	for i := range p.Replicas {
		if apiServerName(i) == server {
			return p.restConfig(p.apiServerURL(i))
		}
	}
	return nil, fmt.Errorf("cluster %s has no API server %s", c.cluster, server)
}

// Ledger implements controlplane.Adapter.
func (c *ControlPlane) Ledger(_ context.Context, server string) (ledger.Report, error) {
	p, err := c.made()
	if err != nil {
		return ledger.Report{}, err
	}
	for i := range p.Replicas {
		if apiServerName(i) == server {
			return p.ledger(i)
		}
	}
	return ledger.Report{}, fmt.Errorf("cluster %s has no API server %s", c.cluster, server)
}

// AdminKubeconfig implements controlplane.Adapter.
func (c *ControlPlane) AdminKubeconfig(context.Context) ([]byte, error) {
	p, err := c.made()
	if err != nil {
		return nil, err
	}
	a, err := p.authorities()
	if err != nil {
		return nil, err
	}
	return pki.Kubeconfig(p.endpoint(), c.cluster, "kubernetes-admin", a.cluster.CertificatePEM(), p.pair("admin"))
}

// made is existing for whom it is an error that there is none.
func (c *ControlPlane) made() (*plane, error) {
	p, err := c.existing()
	if err != nil {
		return nil, fmt.Errorf("reaching cluster %s: %w", c.cluster, err)
	}
	if p == nil {
		return nil, fmt.Errorf("cluster %s has no control plane yet", c.cluster)
	}
	return p, nil
}

// deleteGrace is how long the processes of a cluster that is deleted have to end by themselves: nobody waits for what
// they do.
const deleteGrace = 2 * time.Second

// Delete implements controlplane.Adapter. The machines of the cluster must be gone: their disks are in its directory.
func (c *ControlPlane) Delete(ctx context.Context) (gone bool, err error) {
	site, ok, err := c.find()
	if errors.Is(err, errTaken) {
		return true, nil // nothing there is of this cluster
	}
	gone = err == nil && !ok
	if ok {
		gone, err = c.host.deleteSite(ctx, site)
	}
	if err != nil {
		return false, fmt.Errorf("deleting control plane of cluster %s: %w", c.cluster, err)
	}
	return gone, nil
}

// deleteSite ends all processes of a user cluster's control plane, etcd last, and then removes its bridge and files.
func (h *Host) deleteSite(ctx context.Context, site Site) (gone bool, err error) {
	run := h.Runner(site)
	names, err := run.Names()
	if err != nil {
		return false, err
	}
	others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "etcd" })
	for _, group := range [][]string{others, names} {
		if gone, err := run.StopAll(group, deleteGrace); err != nil || !gone {
			return false, err
		}
	}
	if !site.Loopback {
		if err := network.DeleteBridge(ctx, h.ID(), site.Bridge()); err != nil {
			return false, err
		}
	}
	// Crash here: files and the place in the registry are left; the next call goes on.
	if err := h.RemoveSite(site.Name); err != nil {
		return false, err
	}
	h.forget(site)
	return true, nil
}
