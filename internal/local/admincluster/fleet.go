package admincluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
)

const (
	fleetName  = "fleet"
	fleetLocal = 5
	fleetPort  = "8443"
	// registerAccount is the account that may register clusters with the local fleet.
	registerAccount = "connect-register@keyturn.local"
)

// FleetEndpoint returns the URL of the local fleet: of its memberships API and of its STS.
func (c *Cluster) FleetEndpoint() string {
	return components.HTTPS(c.hostSite().Address(fleetLocal), fleetPort)
}

// ensureFleet starts the local fleet unless it runs.
func (p *parts) ensureFleet(ctx context.Context) error {
	if err := p.ensureBridge(ctx); err != nil {
		return err
	}
	st, err := p.Processes.Observe(fleetName)
	if err != nil || st.Running {
		return err
	}
	path, err := p.host.Programs.Own("keyturn-fleet")
	if err != nil {
		return err
	}
	if err := p.ensureFleetFiles(); err != nil {
		return fmt.Errorf("writing the files of the local fleet: %w", err)
	}
	return p.StartProcess(p.fleet(path))
}

func (p *parts) fleet(path string) process.Spec {
	return process.Spec{Name: fleetName, Path: path, Args: []string{
		"--listen=" + p.hostSite().Address(fleetLocal).String() + ":" + fleetPort,
		"--tls-cert-file=" + p.PKI("fleet.crt"),
		"--tls-private-key-file=" + p.PKI("fleet.key"),
		"--state-file=" + p.fleetFile("state.json"),
		"--registrars-file=" + p.fleetFile("registrars.json"),
		"--faults-file=" + p.fleetFile("faults.json"),
	}}
}

func (c *Cluster) fleetFile(name string) string { return c.Site().Path(fleetName, name) }

// ensureFleetFiles makes the certificate of the fleet, and once the key of the account that may register clusters.
func (p *parts) ensureFleetFiles() error {
	ca, err := pki.EnsureAuthority(p.Path("pki"), "fleet-ca", "fleet-ca")
	if err != nil {
		return err
	}
	address := p.hostSite().Address(fleetLocal)
	if _, err := ca.Ensure(p.Path("pki"), "fleet",
		pki.Request{CommonName: fleetName, Addresses: []netip.Addr{address}, Server: true}); err != nil {
		return err
	}
	if _, err := os.Stat(p.fleetFile("register-key.json")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, registrar, err := fleetserver.NewServiceAccountKey(p.FleetEndpoint()+"/token", registerAccount)
	if err != nil {
		return err
	}
	registrars, err := fleetserver.MarshalRegistrars([]fleetserver.Registrar{registrar})
	if err != nil {
		return err
	}
	// After a crash between the two, a key that the fleet knows is lost, and the next call makes another.
	return errors.Join(
		atomicfile.Ensure(p.fleetFile("registrars.json"), registrars),
		atomicfile.Ensure(p.fleetFile("register-key.json"), key),
	)
}

// awaitFleet waits until the local fleet serves.
func (p *parts) awaitFleet(ctx context.Context) error {
	ca, err := pki.EnsureAuthority(p.Path("pki"), "fleet-ca", "fleet-ca")
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: plane.HealthTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.Pool()}, DisableKeepAlives: true,
	}}
	ready := func(ctx context.Context) error { return plane.Health(ctx, client, p.FleetEndpoint()+"/healthz") }
	return p.awaitBy(ctx, fleetName, ready, func() error { return p.ensureFleet(ctx) })
}
