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

// DefaultNetwork is the range from which clusters get their addresses by default. Data directories of one machine need
// ranges with different second octets, since that octet is also in their loopback addresses.
var DefaultNetwork = netip.MustParsePrefix("10.88.0.0/16")

// networkFile holds the range of the first cluster of a data directory. All addresses depend on it.
const networkFile = "network"

// setNetwork uses the range of the data directory, else the given one, else the default. It is an error to request
// another range than the directory has, unless it is the default, which callers pass without intent.
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

// keptNetwork returns what KeepNetwork wrote; invalid if it never did.
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

// KeepNetwork claims the data directory and fixes its range. It is called before anything gets an address.
func (d *Dir) KeepNetwork() error {
	if err := d.Claim(); err != nil {
		return err
	}
	return atomicfile.Ensure(d.Path(networkFile), []byte(d.network.String()+"\n"))
}
