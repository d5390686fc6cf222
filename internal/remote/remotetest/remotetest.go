// Package remotetest puts a remote.Server in front of adapters, for the tests of packages that have some: over a real
// TLS connection, with certificates of its own authority.
package remotetest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/remote"
)

// Authority issues the credentials of servers on loopback and of their clients.
type Authority struct {
	t  *testing.T
	ca *pki.Authority
}

// NewAuthority returns an authority that nobody else trusts.
func NewAuthority(t *testing.T) Authority {
	t.Helper()
	ca, err := pki.EnsureAuthority(t.TempDir(), "ca", "test-ca")
	if err != nil {
		t.Fatal(err)
	}
	return Authority{t, ca}
}

// Server returns the credentials of a server on 127.0.0.1.
func (a Authority) Server() remote.Credentials {
	return a.issue(pki.Request{
		CommonName: "server", Server: true, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	})
}

// Client returns the credentials of a client.
func (a Authority) Client() remote.Credentials {
	return a.issue(pki.Request{CommonName: "client", Client: true})
}

func (a Authority) issue(r pki.Request) remote.Credentials {
	a.t.Helper()
	dir := a.t.TempDir()
	_, err := a.ca.Ensure(dir, "tls", r)
	if err := errors.Join(err, atomicfile.Write(filepath.Join(dir, "ca.crt"), a.ca.CertificatePEM())); err != nil {
		a.t.Fatal(err)
	}
	return remote.CredentialsIn(dir)
}

// Serve runs a server until the test ends, and returns a client of it.
func Serve(t *testing.T, s *remote.Server) *remote.Client {
	t.Helper()
	a := NewAuthority(t)
	s.Credentials = a.Server()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(Start(t, s, l))
	c, err := remote.NewClient("https://"+l.Addr().String(), a.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Start runs a server on a listener until stop is called.
func Start(t *testing.T, s *remote.Server, l net.Listener) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // cleanups of the test still use it
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	}
}
