package local

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/process"
)

const (
	fleetName  = "fleet"
	fleetLocal = 5
	fleetPort  = "8443"
	// registerAccount is who may register clusters with the local fleet.
	registerAccount = "connect-register@keyturn.local"
)

// FleetEndpoint is the URL of the local fleet: of its memberships API and of its STS.
func (h *Host) FleetEndpoint() string { return https(h.hostSite().address(fleetLocal), fleetPort) }

// ensureFleet starts the local fleet unless it runs.
func (p *plane) ensureFleet(ctx context.Context) error {
	if err := p.host.ensureBridge(ctx); err != nil {
		return err
	}
	st, err := p.run.Observe(fleetName)
	if err != nil || st.Running {
		return err
	}
	path, err := p.host.program("keyturn-fleet")
	if err != nil {
		return err
	}
	if err := p.ensureFleetFiles(); err != nil {
		return fmt.Errorf("writing the files of the local fleet: %w", err)
	}
	return p.start(p.fleet(path))
}

func (p *plane) fleet(path string) process.Spec {
	return process.Spec{Name: fleetName, Path: path, Args: []string{
		"--listen=" + p.host.hostSite().address(fleetLocal).String() + ":" + fleetPort,
		"--tls-cert-file=" + p.pki("fleet.crt"),
		"--tls-private-key-file=" + p.pki("fleet.key"),
		"--state-file=" + p.fleetFile("state.json"),
		"--registrars-file=" + p.fleetFile("registrars.json"),
		"--faults-file=" + p.fleetFile("faults.json"),
	}}
}

func (l layout) fleetFile(name string) string { return l.Path(fleetName, name) }

// ensureFleetFiles makes the certificate of the fleet, and once the key of the account that may register clusters.
func (p *plane) ensureFleetFiles() error {
	ca, err := pki.EnsureAuthority(p.Path("pki"), "fleet-ca", "fleet-ca")
	if err != nil {
		return err
	}
	address := p.host.hostSite().address(fleetLocal)
	if _, err := ca.Ensure(p.Path("pki"), "fleet", pki.Request{CommonName: fleetName, Addresses: []netip.Addr{address}, Server: true}); err != nil {
		return err
	}
	if _, err := os.Stat(p.fleetFile("register-key.json")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, registrar, err := fleetserver.NewServiceAccountKey(p.host.FleetEndpoint()+"/token", registerAccount)
	if err != nil {
		return err
	}
	registrars, err := fleetserver.MarshalRegistrars([]fleetserver.Registrar{registrar})
	if err != nil {
		return err
	}
	// Crash between the two: a key that the fleet knows is nowhere, and the next call makes another.
	return errors.Join(
		atomicfile.Ensure(p.fleetFile("registrars.json"), registrars),
		atomicfile.Ensure(p.fleetFile("register-key.json"), key),
	)
}

// awaitFleet waits until the local fleet serves.
func (p *plane) awaitFleet(ctx context.Context) error {
	ca, err := pki.EnsureAuthority(p.Path("pki"), "fleet-ca", "fleet-ca")
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: healthTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.Pool()}, DisableKeepAlives: true,
	}}
	ready := func(ctx context.Context) error { return health(ctx, client, p.host.FleetEndpoint()+"/healthz") }
	return p.awaitBy(ctx, fleetName, ready, func() error { return p.ensureFleet(ctx) })
}

// program finds one of our own programs.
func (h *Host) program(name string) (string, error) {
	dir := h.programDir
	if dir == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("finding %s: %w", name, err)
		}
		dir = filepath.Dir(exe)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("finding %s: %w\nhint: run `make build`", name, err)
	}
	return path, nil
}
