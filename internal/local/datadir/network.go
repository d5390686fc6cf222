package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// DefaultNetwork is the range from which clusters get their addresses when none is given. Data directories of one
// machine need ranges whose second octets differ, since that octet also tells their loopback addresses apart.
var DefaultNetwork = netip.MustParsePrefix("10.88.0.0/16")

// networkFile holds the range with which the first cluster of a data directory was made: the addresses of all follow
// from it.
const networkFile = "network"

// setNetwork takes the range that the data directory has, then the one given, then the default one. To ask a data
// directory for another range than it has is an error, unless it is the default one, which callers name without meaning
// it.
func (d *Dir) setNetwork() error {
	given := d.network
	if !given.IsValid() {
		given = DefaultNetwork
	}
	if a := given.Addr(); !a.Is4() || given.Bits() != 16 || given.Masked() != given || !a.IsPrivate() {
		return fmt.Errorf("network %s is not a private IPv4 /16, such as %s", given, DefaultNetwork)
	}
	d.network = given
	kept, err := d.keptNetwork()
	if err != nil || !kept.IsValid() {
		return err
	}
	if given != kept && given != DefaultNetwork {
		return fmt.Errorf("the clusters in %s have the network %s, which cannot be changed to %s", d.path, kept, given)
	}
	d.network = kept
	return nil
}

// keptNetwork is what KeepNetwork wrote; invalid when it never did.
func (d *Dir) keptNetwork() (netip.Prefix, error) {
	raw, err := os.ReadFile(d.Path(networkFile))
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

// KeepNetwork claims the data directory and binds it to the range. It is called before anything gets an address.
func (d *Dir) KeepNetwork() error {
	if err := d.Claim(); err != nil {
		return err
	}
	return atomicfile.Ensure(d.Path(networkFile), []byte(d.network.String()+"\n"))
}
