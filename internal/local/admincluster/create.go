package admincluster

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/local/programs"
)

// patience limits each wait for a part of the admin cluster.
const patience = 2 * time.Minute

// CreateOptions are the options of Create.
type CreateOptions struct {
	// Kubeconfig is where the administrator's kubeconfig is written, with mode 0600.
	Kubeconfig string
	// Files are other files to write; empty paths: none.
	Files Files
	// Controller are flags of keyturn-controller: what UserClusters may make it reach in addition to the local fleet,
	// and the images for adopted clusters.
	Controller []string
	// Progress is called with one line about each step. It may be nil.
	Progress func(string)
}

// Create starts the admin cluster, keyturn-local and the controller, and writes the kubeconfig. It does not touch what
// runs, and restores what is missing, so it can be run again after a crash or a reboot. If it fails, it stops what it
// started.
func (c *Cluster) Create(ctx context.Context, o CreateOptions) error {
	before, err := c.running()
	if err == nil {
		err = c.create(ctx, o)
	}
	if err != nil {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return fmt.Errorf("creating admin cluster: %w", errors.Join(err, c.end(ending, before)))
	}
	return nil
}

// processes are the processes of the admin cluster in the order in which they are stopped: keyturn-local restarts the
// others.
var processes = [...]string{localName, controllerName, components.APIServerName(0), programs.Etcd, fleetName}

// running returns which of the admin cluster's processes run.
func (c *Cluster) running() (map[string]bool, error) {
	running := map[string]bool{}
	for _, name := range processes {
		st, err := c.host.Runner(c.Site()).Observe(name)
		if err != nil {
			return nil, err
		}
		running[name] = st.Running
	}
	return running, nil
}

// end stops the admin cluster's processes except those to keep. If keyturn-local is to be kept, it keeps them all.
func (c *Cluster) end(ctx context.Context, keep map[string]bool) error {
	if keep[localName] {
		return nil
	}
	for _, name := range processes {
		if keep[name] {
			continue
		}
		grace := plane.DeleteGrace
		if name == localName || name == controllerName {
			grace = programGrace
		}
		if err := c.host.Runner(c.Site()).Await(ctx, name, grace); err != nil {
			return err
		}
	}
	if keep[fleetName] {
		return nil
	}
	return c.removeBridge(ctx)
}

func (c *Cluster) create(ctx context.Context, o CreateOptions) error {
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	p, err := c.parts()
	if err != nil {
		return err
	}
	progress("writing certificates and configuration")
	if err := errors.Join(c.host.Data.KeepNetwork(), p.ensureFiles()); err != nil {
		return err
	}
	progress("starting etcd and kube-apiserver")
	if err := c.Ensure(ctx); err != nil {
		return err
	}
	revive := func() error { return c.Ensure(ctx) }
	if err := p.await(ctx, p.APIServerURL(0)+components.FullReadyPath, components.APIServerName(0), revive); err != nil {
		return err
	}
	if err := p.NoteServed(); err != nil {
		return err
	}
	progress("installing the UserCluster API and its admission policy")
	if err := p.install(ctx); err != nil {
		return fmt.Errorf("making an admin cluster of the API server: %w", err)
	}
	progress("starting keyturn-local and the controller")
	if err := p.startPrograms(ctx, o.Controller); err != nil {
		return err
	}
	progress("starting the local fleet")
	if err := p.awaitFleet(ctx); err != nil {
		return err
	}
	progress("writing the kubeconfig")
	return errors.Join(p.writeKubeconfig(o.Kubeconfig, "kubernetes-admin", "admin"), p.writeFiles(o.Files))
}

// Ensure starts the processes of the admin cluster's API (etcd, kube-apiserver) and the local fleet that do not run. It
// does not wait for them, and does nothing if there is no admin cluster.
func (c *Cluster) Ensure(ctx context.Context) error {
	p, err := c.parts()
	if err != nil {
		return fmt.Errorf("keeping admin cluster: %w", err)
	}
	if !p.Has(markFile) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := controlplane.Keys{Verify: []int{1}, Sign: 1}
	err = errors.Join(
		p.EnsureEtcd(),
		p.EnsureProcess(programs.APIServer, func(path string) process.Spec { return p.APIServerProcess(path, 0, keys) }),
		p.ensureFleet(ctx),
	)
	if err != nil {
		return fmt.Errorf("keeping admin cluster: %w", err)
	}
	return nil
}

// markFile is the last file of an admin cluster that is written before anything runs. It exists if there is an admin
// cluster.
const markFile = "controller.kubeconfig"

func (p *parts) ensureFiles() error {
	if err := p.ensureSecretsKey(); err != nil {
		return err
	}
	a, err := p.Authorities()
	if err != nil {
		return err
	}
	controller := components.Certificate{
		By: a.Cluster, Name: controllerName, Request: pki.Request{CommonName: v1alpha1.ControllerUser, Client: true},
	}
	if err := p.EnsureCertificates(append(p.Certificates(a), controller)); err != nil {
		return err
	}
	if err := errors.Join(
		atomicfile.Ensure(p.Path("authentication.yaml"), []byte(components.AuthenticationConfig)),
		atomicfile.Ensure(p.Path("admission.yaml"), []byte(components.AdmissionConfig)),
		p.ensureTokenKey(),
		p.ensureLocalCredentials(),
	); err != nil {
		return err
	}
	return p.writeKubeconfig(p.Path(markFile), controllerName, controllerName)
}

// ensureTokenKey gives the admin cluster's API server a signing key, which it requires although nobody uses its tokens.
func (p *parts) ensureTokenKey() error {
	disk := p.APIServerKeys(0)
	if configured, err := disk.Configured(); err != nil || !configured.IsZero() {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating the admin cluster's signing key: %w", err)
	}
	return disk.Configure(controlplane.Keys{Verify: []int{1}, Sign: 1}, []hostkeys.Key{{Version: 1, Signer: key}})
}

func (p *parts) writeKubeconfig(path, user, pair string) error {
	a, err := p.Authorities()
	if err != nil {
		return err
	}
	raw, err := pki.Kubeconfig(p.APIServerURL(0), p.Name, user, a.Cluster.CertificatePEM(), p.Pair(pair))
	if err != nil {
		return err
	}
	return atomicfile.Ensure(path, raw)
}

func (p *parts) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg, err := p.RESTConfig(p.APIServerURL(0))
	if err != nil {
		return err
	}
	return install.Apply(ctx, cfg)
}

// await waits until a URL answers with 200, and restarts the process unless that fails repeatedly.
func (p *parts) await(ctx context.Context, url, name string, revive func() error) error {
	client, err := p.HealthClient()
	if err != nil {
		return err
	}
	return p.awaitBy(ctx, name, func(ctx context.Context) error { return plane.Health(ctx, client, url) }, revive)
}

// awaitBy is await for a process with another check.
func (p *parts) awaitBy(
	ctx context.Context, name string, ready func(context.Context) error, revive func() error,
) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := revive(); err != nil {
			return err
		}
		last := ready(ctx)
		if last == nil {
			return nil
		}
		if p.Processes.BackOff(name) > 2*time.Second {
			return errors.New(cmp.Or(p.Processes.Why(name), name+" does not stay alive"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w; last lines of its log: %s", name, ctx.Err(), last,
				p.Processes.LastLines(name, 3))
		case <-tick.C:
		}
	}
}
