package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/network"
)

// hostSite is where the local fleet and keyturn-local listen: on a bridge without machines, whose addresses machines of
// every user cluster reach by their default route. On loopback there are no machines.
func (h *Host) hostSite() Site {
	s := h.AdminSite()
	s.Loopback = h.loopback
	return s
}

// ensureBridge makes the bridge of the host's site. On loopback the addresses are there anyway.
func (h *Host) ensureBridge(ctx context.Context) error {
	site := h.hostSite()
	if site.Loopback {
		return nil
	}
	address := func(last byte) netip.Prefix { return netip.PrefixFrom(site.address(last), 32) }
	return network.EnsureBridge(ctx, h.ID(), site.Bridge(), address(fleetLocal), address(localLocal))
}

// removeBridge removes the bridge of the host's site, on which nothing listens any more.
func (h *Host) removeBridge(ctx context.Context) error {
	if site := h.hostSite(); !site.Loopback && h.ID() != "" {
		return network.DeleteBridge(ctx, h.ID(), site.Bridge())
	}
	return nil
}

// HostFiles are where the administrator gets copies of what others need to use this host.
type HostFiles struct {
	// FleetKey is a file for the service account key that registers clusters with the local fleet, with mode 0600, and
	// FleetCA one for the certificate of the fleet.
	FleetKey, FleetCA string
	// LocalCredentials is a directory for the credentials with which a controller calls keyturn-local: tls.crt, tls.key
	// and ca.crt, with mode 0600, as a Secret of type kubernetes.io/tls has them.
	LocalCredentials string
}

// copies names the files that the administrator gets copies of, and where these are.
func (l layout) copies(to HostFiles) map[string]string {
	copies := map[string]string{l.fleetFile("register-key.json"): to.FleetKey, l.pki("fleet-ca.crt"): to.FleetCA}
	maps.DeleteFunc(copies, func(_, to string) bool { return to == "" })
	if to.LocalCredentials != "" {
		for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
			copies[filepath.Join(l.localCredentials(), name)] = filepath.Join(to.LocalCredentials, name)
		}
	}
	return copies
}

// writeFiles writes the copies.
func (l layout) writeFiles(to HostFiles) error {
	for from, to := range l.copies(to) {
		data, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("reading a file of the admin cluster: %w", err)
		}
		if err := atomicfile.Ensure(to, data); err != nil {
			return err
		}
	}
	return nil
}

// FilesLike returns those of the paths at which there is a copy as CreateAdmin writes it.
func (h *Host) FilesLike(files HostFiles) []string {
	var same []string
	for from, to := range (layout{Site: h.AdminSite()}).copies(files) {
		original, errFrom := os.ReadFile(from)
		copied, errTo := os.ReadFile(to)
		if err := errors.Join(errFrom, errTo); err == nil && bytes.Equal(original, copied) {
			same = append(same, to)
		}
	}
	return same
}
