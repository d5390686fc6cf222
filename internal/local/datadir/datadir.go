package datadir

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// Dir is a data directory. It is safe for concurrent use. Several processes may use one, but only the holder of its
// Lock may change user clusters.
type Dir struct {
	path     string
	network  netip.Prefix
	loopback bool

	mu   sync.Mutex
	mark mark
}

// Open checks that the directory is, or can become, Keyturn's, and creates nothing. An existing one must belong to the
// caller, be writable by nobody else, and be empty or marked as Keyturn's. The network is an IPv4 /16; zero:
// DefaultNetwork. Loopback makes no bridges for new clusters, which then cannot have nodes. It is implied without root.
func Open(path string, network netip.Prefix, loopback bool) (*Dir, error) {
	if path == "" {
		return nil, errors.New("no data directory given")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding data directory: %w", err)
	}
	d := &Dir{path: abs, network: network, loopback: loopback || os.Geteuid() != 0}
	if err := errors.Join(d.readMark(), d.setNetwork()); err != nil {
		return nil, err
	}
	return d, nil
}

// Path returns an absolute path: the data directory, or what the names lead to below it.
func (d *Dir) Path(elem ...string) string { return filepath.Join(append([]string{d.path}, elem...)...) }

// Network returns the range from which clusters get their addresses.
func (d *Dir) Network() netip.Prefix { return d.network }
