package admincluster

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/remote"
)

const (
	controllerName  = "controller"
	controllerLocal = 4
	metricsPort     = "8080"
	healthPort      = "8081"

	localName  = "local"
	localLocal = 6
	localPort  = "9443"
)

// LocalEndpoint returns the URL at which keyturn-local serves the user clusters of this host to a controller.
func (c *Cluster) LocalEndpoint() string {
	return components.HTTPS(c.hostSite().Address(localLocal), localPort)
}

// startPrograms starts keyturn-local, which starts the controller, and waits until both work. It replaces those that
// run with other flags.
func (p *parts) startPrograms(ctx context.Context, extra []string) error {
	path, err := p.host.Programs.Own("keyturn-local")
	if err != nil {
		return err
	}
	controller, err := p.host.Programs.Own("keyturn-controller")
	if err != nil {
		return err
	}
	local := p.local(path, extra)
	for _, spec := range []process.Spec{local, p.controller(controller, extra)} {
		if err := p.endOutdated(ctx, spec); err != nil {
			return err
		}
	}
	client, err := remote.NewClient(p.LocalEndpoint(), remote.CredentialsIn(p.localCredentials()))
	if err != nil {
		return err
	}
	revive := func() error { return p.StartProcess(local) }
	if err := p.awaitBy(ctx, localName, client.Check, revive); err != nil {
		return err
	}
	return p.await(ctx, "http://"+p.controllerAddress(healthPort)+"/readyz", controllerName, revive)
}

// endOutdated stops a process that runs with other flags.
func (p *parts) endOutdated(ctx context.Context, wanted process.Spec) error {
	st, err := p.Processes.Observe(wanted.Name)
	if err != nil || !st.Running || st.Digest == wanted.Digest() {
		return err
	}
	return p.Processes.Await(ctx, wanted.Name, programGrace)
}

// local returns keyturn-local, which passes extra flags to the controller.
func (p *parts) local(path string, extra []string) process.Spec {
	return process.Spec{Name: localName, Path: path, Args: slices.Concat([]string{
		"--data-dir=" + p.host.Data.Path(),
		"--kube-bin-dir=" + p.host.Programs.KubeDir(),
		"--network=" + p.Network.String(),
		"--metrics-bind-address=" + p.Local(localLocal).String() + ":" + metricsPort,
		"--supervise",
		"--",
	}, extra)}
}

func (p *parts) controller(path string, extra []string) process.Spec {
	return process.Spec{Name: controllerName, Path: path, Args: slices.Concat([]string{
		"--kubeconfig=" + p.Path(markFile),
		"--local-endpoint=" + p.LocalEndpoint(),
		"--local-credentials=" + p.localCredentials(),
		"--metrics-bind-address=" + p.controllerAddress(metricsPort),
		"--health-probe-bind-address=" + p.controllerAddress(healthPort),
		"--leader-elect=false", // keyturn-local starts only one, which should not wait for the Lease of a dead one
		"--allow-fleet-endpoint=" + p.FleetEndpoint(),
	}, extra)}
}

func (p *parts) controllerAddress(port string) string {
	return p.Local(controllerLocal).String() + ":" + port
}

// localCredentials returns the directory with the credentials of a client of keyturn-local.
func (c *Cluster) localCredentials() string { return c.Site().Path("local-credentials") }

// ensureLocalCredentials makes the credentials of keyturn-local and of its clients. The authority issues no other
// certificates. Whoever has a client certificate has full control of the user clusters of this host.
func (p *parts) ensureLocalCredentials() error {
	ca, err := pki.EnsureAuthority(p.Path("pki"), "local-ca", "local-ca")
	if err != nil {
		return err
	}
	address := p.hostSite().Address(localLocal)
	server := pki.Request{CommonName: "keyturn-local", Addresses: []netip.Addr{address}, Server: true}
	if _, err := ca.Ensure(p.Path("pki"), localName, server); err != nil {
		return err
	}
	client := pki.Request{CommonName: "keyturn-controller", Client: true}
	if _, err := ca.Ensure(p.localCredentials(), "tls", client); err != nil {
		return err
	}
	return atomicfile.Ensure(filepath.Join(p.localCredentials(), "ca.crt"), ca.CertificatePEM())
}
