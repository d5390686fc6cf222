package local

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// networkFile holds the range with which the first cluster of a data directory was made: the addresses of all follow from it.
const networkFile = "network"

// setNetwork takes the range that the data directory has, then the one given, then the default one. To ask a data directory
// for another range than it has is an error, unless it is the default one, which callers name without meaning it.
func (h *Host) setNetwork() error {
	given := h.network
	if !given.IsValid() {
		given = DefaultNetwork
	}
	if a := given.Addr(); !a.Is4() || given.Bits() != 16 || given.Masked() != given || !a.IsPrivate() {
		return fmt.Errorf("network %s is not a private IPv4 /16, such as %s", given, DefaultNetwork)
	}
	h.network = given
	kept, err := h.keptNetwork()
	if err != nil || !kept.IsValid() {
		return err
	}
	if given != kept && given != DefaultNetwork {
		return fmt.Errorf("the clusters in %s have the network %s, which cannot be changed to %s", h.dataDir, kept, given)
	}
	h.network = kept
	return nil
}

// keptNetwork is what keepNetwork wrote; invalid when it never did.
func (h *Host) keptNetwork() (netip.Prefix, error) {
	raw, err := os.ReadFile(filepath.Join(h.dataDir, networkFile))
	if errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("reading the network of clusters: %w", err)
	}
	kept, err := parseNetwork(raw)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("reading the network of clusters: %w", err)
	}
	return kept, nil
}

func parseNetwork(raw []byte) (netip.Prefix, error) {
	return netip.ParsePrefix(strings.TrimSpace(string(raw)))
}

// keepNetwork claims the data directory and binds it to the range. It is called before anything gets an address.
func (h *Host) keepNetwork() error {
	if err := h.claim(); err != nil {
		return err
	}
	return atomicfile.Ensure(filepath.Join(h.dataDir, networkFile), []byte(h.network.String()+"\n"))
}
