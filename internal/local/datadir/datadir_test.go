package datadir_test

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
)

// open opens a data directory, which the caller has made or not.
func open(t *testing.T, path string) *datadir.Dir {
	t.Helper()
	d, err := datadir.Open(path, netip.Prefix{}, true)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpenRefuses(t *testing.T) {
	for name, o := range map[string]struct {
		path    string
		network netip.Prefix
	}{
		"no directory":    {},
		"public network":  {path: t.TempDir(), network: netip.MustParsePrefix("8.8.0.0/16")},
		"too small":       {path: t.TempDir(), network: netip.MustParsePrefix("10.1.1.0/24")},
		"bits of a host":  {path: t.TempDir(), network: netip.MustParsePrefix("10.1.1.0/16")},
		"not of IPv4":     {path: t.TempDir(), network: netip.MustParsePrefix("fd00::/16")},
		"directory is no": {path: "/dev/null/data"},
	} {
		if d, err := datadir.Open(o.path, o.network, true); err == nil || d != nil {
			t.Errorf("%s: got %v, %v", name, d, err)
		}
	}
}

func TestNetworkIsKept(t *testing.T) {
	dir := t.TempDir()
	own := netip.MustParsePrefix("10.99.0.0/16")
	d, err := datadir.Open(dir, own, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	for _, given := range []netip.Prefix{{}, datadir.DefaultNetwork, own} {
		if d, err := datadir.Open(dir, given, true); err != nil || d.Network() != own {
			t.Errorf("given %s: %v", given, err)
		}
	}
	if _, err := datadir.Open(dir, netip.MustParsePrefix("10.98.0.0/16"), true); err == nil {
		t.Error("another network was taken")
	}
}

func TestLockIsForOne(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "data"))
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, datadir.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSitesKeepTheirPlaces(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "data"))
	ensure := func(name string, index int) {
		t.Helper()
		s, err := d.EnsureSite(name, "")
		if err != nil || s.Index != index {
			t.Fatalf("%s has index %d, %v; want %d", name, s.Index, err, index)
		}
		if mode := localtest.FileMode(t, s.Dir); mode != 0o700 {
			t.Errorf("directory of %s has mode %o", name, mode)
		}
	}
	ensure("a.one", 1)
	ensure("a.two", 2)
	ensure("a.three", 3)
	if err := d.RemoveSite("a.two"); err != nil {
		t.Fatal(err)
	}
	ensure("a.three", 3)
	ensure("a.four", 2)
	s, ok, err := d.Site("a.four")
	if err != nil || !ok || !s.Loopback || s.APIServer(1).String() != "127.88.2.12" {
		t.Errorf("got %+v, %v, %v", s, ok, err)
	}
	if _, ok, err := d.Site("a.two"); ok || err != nil {
		t.Errorf("a removed site: %v, %v", ok, err)
	}
}

func TestHostIsFull(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "data"))
	for i := range 254 {
		if _, err := d.EnsureSite(fmt.Sprintf("a.c%d", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.EnsureSite("a.one-more", ""); err == nil || !strings.Contains(err.Error(), "254") {
		t.Errorf("got %v", err)
	}
}
