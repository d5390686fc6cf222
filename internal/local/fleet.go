package local

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/local/network"
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

// FleetFiles are what a user cluster needs to be registered with the fleet of this host, as files for its
// configuration to name.
type FleetFiles struct {
	// Key is the service account key that registers clusters, with mode 0600, and CA the certificate of the fleet.
	Key, CA string
}

// FleetEndpoint is the URL of the local fleet: of its memberships API and of its STS.
func (h *Host) FleetEndpoint() string { return https(h.fleetSite().address(fleetLocal), fleetPort) }

// fleetSite is where the local fleet listens: on a bridge without machines, whose address the machines of every user
// cluster reach by their default route. On loopback there are no machines.
func (h *Host) fleetSite() Site {
	s := h.AdminSite()
	s.Loopback = h.loopback
	return s
}

// ensureFleet makes the bridge of the local fleet, and starts the fleet unless it runs.
func (p *plane) ensureFleet(ctx context.Context) error {
	if site := p.host.fleetSite(); !site.Loopback {
		address := netip.PrefixFrom(site.address(fleetLocal), 32)
		if err := network.EnsureBridge(ctx, p.host.ID(), site.Bridge(), address); err != nil {
			return err
		}
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
		"--listen=" + p.host.fleetSite().address(fleetLocal).String() + ":" + fleetPort,
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
	address := p.host.fleetSite().address(fleetLocal)
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
	return p.awaitBy(ctx, client, p.host.FleetEndpoint()+"/healthz", fleetName, func() error { return p.ensureFleet(ctx) })
}

// writeFleetFiles copies the key and the certificate to where the user wants them.
func (p *plane) writeFleetFiles(to FleetFiles) error {
	for from, to := range p.fleetCopies(to) {
		data, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("reading a file of the local fleet: %w", err)
		}
		if err := atomicfile.Ensure(to, data); err != nil {
			return err
		}
	}
	return nil
}

// fleetCopies names the files of the fleet that the user gets copies of, and where these are.
func (l layout) fleetCopies(to FleetFiles) map[string]string {
	copies := map[string]string{l.fleetFile("register-key.json"): to.Key, l.pki("fleet-ca.crt"): to.CA}
	maps.DeleteFunc(copies, func(_, to string) bool { return to == "" })
	return copies
}

// FleetFilesLike returns those of the paths at which there is a copy of a file of the local fleet, as CreateAdmin writes them.
func (h *Host) FleetFilesLike(files FleetFiles) []string {
	var same []string
	for from, to := range (layout{Site: h.AdminSite()}).fleetCopies(files) {
		original, errFrom := os.ReadFile(from)
		copied, errTo := os.ReadFile(to)
		if errFrom == nil && errTo == nil && bytes.Equal(original, copied) {
			same = append(same, to)
		}
	}
	return same
}

// removeFleetBridge removes the bridge of the fleet, which has ended; its files go with the admin cluster.
func (h *Host) removeFleetBridge(ctx context.Context) error {
	if site := h.fleetSite(); !site.Loopback && h.ID() != "" {
		return network.DeleteBridge(ctx, h.ID(), site.Bridge())
	}
	return nil
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
