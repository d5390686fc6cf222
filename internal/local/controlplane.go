package local

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
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/pki"
)

// ControlPlanes runs the control planes of user clusters as processes of this host: API servers that read their keys from
// files, or ask a signer beside them. It implements controlplane.Adapter.
type ControlPlanes struct{ host *Host }

var _ controlplane.Adapter = (*ControlPlanes)(nil)

// ControlPlanes returns the adapter for this host's control planes.
func (h *Host) ControlPlanes() *ControlPlanes { return &ControlPlanes{host: h} }

// Observe implements controlplane.Adapter.
func (c *ControlPlanes) Observe(ctx context.Context, uc *v1alpha1.UserCluster) (controlplane.State, error) {
	site, ok, err := c.host.SiteOf(uc)
	if err != nil || !ok {
		return controlplane.State{}, err
	}
	p, err := c.host.plane(site, uc)
	if err != nil {
		return controlplane.State{}, err
	}
	if !p.madeFiles() {
		return controlplane.State{}, nil // registered, and nothing more
	}
	v, err := p.look(ctx)
	if err != nil {
		return controlplane.State{}, fmt.Errorf("observing control plane of cluster %s: %w", uc.Name, err)
	}
	state := v.state(p.endpoint())
	state.Home = c.host.ID()
	return state, nil
}

func (v view) state(endpoint string) controlplane.State {
	state := controlplane.State{Endpoint: endpoint, Waiting: strings.Join(v.waiting, "; ")}
	for _, s := range v.servers {
		state.Servers = append(state.Servers, s.Server)
	}
	for _, m := range v.managers {
		state.ControllerManagers = append(state.ControllerManagers, m.ControllerManager)
	}
	return state
}

// Converge implements controlplane.Adapter. An API server is given other keys in this order: the keys as files, what it is
// to run with, out of the load balancer, end, start, ready, back into the load balancer. If it has a signer: what it is to run with,
// and then the keys to the signer. What was done is seen from outside, so that each call finds its place in it again.
func (c *ControlPlanes) Converge(
	ctx context.Context, uc *v1alpha1.UserCluster, target controlplane.Target, keys []keystore.KeyPair,
) error {
	if err := c.converge(ctx, uc, target, keys); err != nil {
		return fmt.Errorf("converging control plane of cluster %s: %w", uc.Name, err)
	}
	return nil
}

func (c *ControlPlanes) converge(
	ctx context.Context, uc *v1alpha1.UserCluster, target controlplane.Target, keys []keystore.KeyPair,
) error {
	if _, _, err := c.host.SiteOf(uc); err != nil {
		return err
	}
	site, err := c.host.EnsureSite(SiteName(uc))
	if err != nil {
		return err
	}
	p, err := c.host.plane(site, uc)
	if err != nil {
		return err
	}
	if err := errors.Join(p.ensureNetwork(ctx), p.ensureFiles()); err != nil {
		return err
	}
	if err := p.ensureEtcd(); err != nil {
		return err
	}
	v, err := p.look(ctx)
	if err != nil {
		return err
	}
	if v.anyHealthy() {
		if err := p.noteServed(); err != nil {
			return err
		}
	}
	// What one process lacks does not hold up the others.
	errs := []error{p.convergeServers(ctx, v, target, keys), p.ensureLoadBalancer()}
	if v.anyHealthy() {
		errs = append(errs, p.convergeManagers(v, target.ControllerManagerSign, keys), p.ensureSchedulers())
		p.bootstrap(ctx, v)
	}
	return errors.Join(errs...)
}

// Config implements controlplane.Adapter.
func (c *ControlPlanes) Config(ctx context.Context, uc *v1alpha1.UserCluster, server string) (*rest.Config, error) {
	p, err := c.existing(uc)
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
	return nil, fmt.Errorf("cluster %s has no API server %s", uc.Name, server)
}

// AdminKubeconfig implements controlplane.Adapter.
func (c *ControlPlanes) AdminKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster) ([]byte, error) {
	p, err := c.existing(uc)
	if err != nil {
		return nil, err
	}
	a, err := p.authorities()
	if err != nil {
		return nil, err
	}
	return pki.Kubeconfig(p.endpoint(), uc.Name, "kubernetes-admin", a.cluster.CertificatePEM(), p.pair("admin"))
}

func (c *ControlPlanes) existing(uc *v1alpha1.UserCluster) (*plane, error) {
	site, ok, err := c.host.SiteOf(uc)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("cluster %s has no control plane yet", uc.Name)
	}
	p, err := c.host.plane(site, uc)
	if err == nil && !p.madeFiles() {
		err = fmt.Errorf("cluster %s has no control plane yet", uc.Name)
	}
	return p, err
}

// deleteGrace is how long the processes of a cluster that is deleted have to end by themselves: nobody waits for what they do.
const deleteGrace = 2 * time.Second

// Delete implements controlplane.Adapter. The machines of the cluster must be gone: their disks are in its directory.
func (c *ControlPlanes) Delete(ctx context.Context, uc *v1alpha1.UserCluster) (gone bool, err error) {
	site, ok, err := c.host.SiteOf(uc)
	if err != nil || !ok {
		return err == nil, err
	}
	gone, err = c.host.deleteSite(ctx, site)
	if err != nil {
		return false, fmt.Errorf("deleting control plane of cluster %s: %w", uc.Name, err)
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
