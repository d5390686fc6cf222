package local

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// emptyHost is a Host whose binaries are whatever the test makes.
func emptyHost(t *testing.T) *Host {
	t.Helper()
	dir := t.TempDir()
	h, err := New(Options{DataDir: filepath.Join(dir, "data"), KubeBinDir: filepath.Join(dir, "kube"), Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// fakeBinary makes a program that answers --version.
func fakeBinary(t *testing.T, path, version string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho Kubernetes %s\n", version), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no directory":    {},
		"public network":  {DataDir: t.TempDir(), Network: netip.MustParsePrefix("8.8.0.0/16")},
		"too small":       {DataDir: t.TempDir(), Network: netip.MustParsePrefix("10.1.1.0/24")},
		"bits of a host":  {DataDir: t.TempDir(), Network: netip.MustParsePrefix("10.1.1.0/16")},
		"not of IPv4":     {DataDir: t.TempDir(), Network: netip.MustParsePrefix("fd00::/16")},
		"directory is no": {DataDir: "/dev/null/data"},
	} {
		if h, err := New(o); err == nil || h != nil {
			t.Errorf("%s: got %v, %v", name, h, err)
		}
	}
}

func TestNetworkIsKept(t *testing.T) {
	dir := t.TempDir()
	own := netip.MustParsePrefix("10.99.0.0/16")
	h, err := New(Options{DataDir: dir, Network: own, Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.EnsureSite("a.a", ""); err != nil {
		t.Fatal(err)
	}
	for _, given := range []netip.Prefix{{}, DefaultNetwork, own} {
		if h, err := New(Options{DataDir: dir, Network: given}); err != nil || h.Network() != own {
			t.Errorf("given %s: %v", given, err)
		}
	}
	if _, err := New(Options{DataDir: dir, Network: netip.MustParsePrefix("10.98.0.0/16")}); err == nil {
		t.Error("another network was taken")
	}
}

func TestLockIsForOne(t *testing.T) {
	h := emptyHost(t)
	lock, err := h.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := h.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBinary(t *testing.T) {
	const name, version = "kube-apiserver", "v1.36.4"
	for _, c := range []struct {
		name, at, says, err string
	}{
		{name: "in the folder of its version", at: "v1.36.4/kube-apiserver", says: version},
		{name: "as official releases come", at: "kube-apiserver", says: version},
		{name: "of another version", at: "kube-apiserver", says: "v1.35.1", err: "is version v1.35.1, not v1.36.4"},
		{name: "in the wrong folder", at: "v1.36.4/kube-apiserver", says: "v1.35.1", err: "is version v1.35.1, not v1.36.4"},
		{name: "missing", at: "v1.35.1/kube-apiserver", says: "v1.35.1", err: "no kube-apiserver v1.36.4 at "},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := emptyHost(t)
			path := filepath.Join(h.binDir, c.at)
			fakeBinary(t, path, c.says)
			got, err := h.Binary(version, name)
			if c.err == "" && (err != nil || got != path) {
				t.Errorf("got %s, %v", got, err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "make kube")) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBinaryIsAskedAgainWhenReplaced(t *testing.T) {
	h := emptyHost(t)
	path := filepath.Join(h.binDir, "kube-apiserver")
	write := func(version string) {
		t.Helper()
		fakeBinary(t, path, version)
		// The same size and the same time: nothing but its content tells it from the one before.
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("v1.35.1")
	if _, err := h.Binary("v1.36.4", "kube-apiserver"); err == nil {
		t.Fatal("no error for the wrong version")
	}
	write("v1.36.4")
	if _, err := h.Binary("v1.36.4", "kube-apiserver"); err != nil {
		t.Error(err)
	}
}

func TestSitesKeepTheirPlaces(t *testing.T) {
	h := emptyHost(t)
	ensure := func(name string, index int) {
		t.Helper()
		s, err := h.EnsureSite(name, "")
		if err != nil || s.Index != index {
			t.Fatalf("%s has index %d, %v; want %d", name, s.Index, err, index)
		}
		if mode := fileMode(t, s.Dir); mode != 0o700 {
			t.Errorf("directory of %s has mode %o", name, mode)
		}
	}
	ensure("a.one", 1)
	ensure("a.two", 2)
	ensure("a.three", 3)
	if err := h.RemoveSite("a.two"); err != nil {
		t.Fatal(err)
	}
	ensure("a.three", 3)
	ensure("a.four", 2)
	s, ok, err := h.Site("a.four")
	if err != nil || !ok || !s.Loopback || s.APIServer(1).String() != "127.88.2.12" {
		t.Errorf("got %+v, %v, %v", s, ok, err)
	}
	if _, ok, err := h.Site("a.two"); ok || err != nil {
		t.Errorf("a removed site: %v, %v", ok, err)
	}
}

func TestHostIsFull(t *testing.T) {
	h := emptyHost(t)
	for i := range maxSites {
		if _, err := h.EnsureSite(fmt.Sprintf("a.c%d", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.EnsureSite("a.one-more", ""); err == nil || !strings.Contains(err.Error(), "254") {
		t.Errorf("got %v", err)
	}
}
