package plane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

// ControlPlane runs the control plane of one user cluster as processes of this host. Its API servers read their keys
// from files, or get them from a signer next to them. It implements controlplane.Adapter.
//
// There are as many API servers as the spec has replicas, which cannot be changed. Each is listed by name as long as
// the cluster exists, whether it runs or not. None can be removed, and none appears on its own.
type ControlPlane struct {
	host   *Host
	uc     *v1alpha1.UserCluster
	layout components.Layout
	// unusable is why the cluster's spec cannot be used. Methods that do not need the spec still work.
	unusable error
}

var _ controlplane.Adapter = (*ControlPlane)(nil)

// ControlPlane returns the control plane of a local user cluster. An unusable spec is an error of the methods that need
// it, but not of Delete.
func (h *Host) ControlPlane(uc *v1alpha1.UserCluster) *ControlPlane {
	c := &ControlPlane{host: h, uc: uc}
	c.layout, c.unusable = layoutOf(uc)
	return c
}

// at returns the control plane at a site.
func (c *ControlPlane) at(site datadir.Site) (*Plane, error) {
	if c.unusable != nil {
		return nil, c.unusable
	}
	l := c.layout
	l.Site = site
	return c.host.Plane(l), nil
}

// existing returns the control plane; nil if it was never created.
func (c *ControlPlane) existing() (*Plane, error) {
	site, ok, err := c.host.Data.Find(c.uc)
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
		return controlplane.State{}, fmt.Errorf("observing control plane of cluster %s: %w", c.uc.Name, err)
	}
	if p == nil {
		return controlplane.State{Presence: rotation.PresenceAbsent}, nil
	}
	v, err := p.look(ctx)
	if err != nil {
		return controlplane.State{}, fmt.Errorf("observing control plane of cluster %s: %w", c.uc.Name, err)
	}
	state := v.state(p.Endpoint())
	state.Home = c.host.Data.ID()
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

// Converge implements controlplane.Adapter. It changes the keys of an API server in this order: write the key files,
// configure them, drain the load balancer, stop, start, wait until ready, use the load balancer again. If it has a
// signer: configure the keys, and then give them to the signer. The progress can be observed from outside, so each call
// continues where the last one stopped.
func (c *ControlPlane) Converge(ctx context.Context, target controlplane.Target, keys []keystore.KeyPair) error {
	if err := staleness(c.converge(ctx, target, hostKeys(keys))); err != nil {
		return fmt.Errorf("converging control plane of cluster %s: %w", c.uc.Name, err)
	}
	return nil
}

// staleness converts an error if somebody has acted on a later plan since the target was compared.
func staleness(err error) error {
	if errors.Is(err, hostkeys.ErrStale) {
		return fmt.Errorf("%w: %w", controlplane.ErrStale, err)
	}
	return err
}

// hostKeys converts the keys for package hostkeys.
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
		if err := p.NoteServed(); err != nil {
			return err
		}
	}
	if err := p.EnsureEtcd(); err != nil {
		return err
	}
	// A problem of one process must not block the others.
	errs := []error{p.convergeServers(ctx, v, target, keys), p.ensureLoadBalancer()}
	if v.anyHealthy() {
		errs = append(errs, p.convergeManagers(v, target.ControllerManagerSign, keys), p.ensureSchedulers())
		p.bootstrap(ctx, v)
	}
	return errors.Join(errs...)
}

func (c *ControlPlane) ensureSite() (*Plane, error) {
	if _, _, err := c.host.Data.Find(c.uc); err != nil {
		return nil, err
	}
	site, err := c.host.Data.EnsureSite(datadir.SiteName(c.uc), c.uc.UID)
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
		return p.RESTConfig(p.Endpoint())
	}
	for i := range p.Replicas {
		if components.APIServerName(i) == server {
			return p.RESTConfig(p.APIServerURL(i))
		}
	}
	return nil, fmt.Errorf("cluster %s has no API server %s", c.uc.Name, server)
}

// Ledger implements controlplane.Adapter.
func (c *ControlPlane) Ledger(_ context.Context, server string) (ledger.Report, error) {
	p, err := c.made()
	if err != nil {
		return ledger.Report{}, err
	}
	for i := range p.Replicas {
		if components.APIServerName(i) == server {
			return ledgerOf(p.Layout, i)
		}
	}
	return ledger.Report{}, fmt.Errorf("cluster %s has no API server %s", c.uc.Name, server)
}

// AdminKubeconfig implements controlplane.Adapter.
func (c *ControlPlane) AdminKubeconfig(context.Context) ([]byte, error) {
	p, err := c.made()
	if err != nil {
		return nil, err
	}
	a, err := p.Authorities()
	if err != nil {
		return nil, err
	}
	return pki.Kubeconfig(p.Endpoint(), c.uc.Name, "kubernetes-admin", a.Cluster.CertificatePEM(), p.Pair("admin"))
}

// made is existing, but returns an error if there is none.
func (c *ControlPlane) made() (*Plane, error) {
	p, err := c.existing()
	if err != nil {
		return nil, fmt.Errorf("reaching cluster %s: %w", c.uc.Name, err)
	}
	if p == nil {
		return nil, fmt.Errorf("cluster %s has no control plane yet", c.uc.Name)
	}
	return p, nil
}

// DeleteGrace is how long the processes of a deleted cluster may take to stop, since nobody waits for what they do.
const DeleteGrace = 2 * time.Second

// Delete implements controlplane.Adapter. The machines of the cluster must be gone: their disks are in its directory.
func (c *ControlPlane) Delete(ctx context.Context) (gone bool, err error) {
	site, ok, err := c.host.Data.Find(c.uc)
	if errors.Is(err, datadir.ErrTaken) {
		return true, nil // nothing of this cluster exists
	}
	gone = err == nil && !ok
	if ok {
		gone, err = c.host.DeleteSite(ctx, site)
	}
	if err != nil {
		return false, fmt.Errorf("deleting control plane of cluster %s: %w", c.uc.Name, err)
	}
	return gone, nil
}

// DeleteSite stops all processes of a user cluster's control plane, etcd last, and then removes its bridge and files.
func (h *Host) DeleteSite(ctx context.Context, site datadir.Site) (gone bool, err error) {
	run := h.Runner(site)
	names, err := run.Names()
	if err != nil {
		return false, err
	}
	others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "etcd" })
	for _, group := range [][]string{others, names} {
		if gone, err := run.StopAll(group, DeleteGrace); err != nil || !gone {
			return false, err
		}
	}
	if !site.Loopback {
		if err := network.DeleteBridge(ctx, h.Data.ID(), site.Bridge()); err != nil {
			return false, err
		}
	}
	// A crash here leaves files and the registry entry; the next call continues.
	if err := h.Data.RemoveSite(site.Name); err != nil {
		return false, err
	}
	h.Forget(site)
	return true, nil
}
