package pki

import (
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/kubeconfig"
)

var server = Request{
	CommonName: "server", Organizations: []string{"org"}, Server: true, Client: true,
	Names: []string{"kubernetes"}, Addresses: []netip.Addr{netip.MustParseAddr("10.88.1.10")},
}

func authority(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := EnsureAuthority(dir, "ca", "test-ca")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func ensure(t *testing.T, a *Authority, dir string, r Request) *x509.Certificate {
	t.Helper()
	p, err := a.Ensure(dir, "server", r)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := load(p)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificateIsGoodForWhatWasAsked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a := authority(t, dir)
	cert := ensure(t, a, dir, server)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.CertificatePEM()) {
		t.Fatal("authority has no certificate")
	}
	for _, name := range []string{"kubernetes", "10.88.1.10"} {
		o := x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := cert.Verify(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cert.Subject.CommonName != "server" || len(cert.Subject.Organization) != 1 || cert.IsCA {
		t.Errorf("certificate is for %s", cert.Subject)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("files: %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestKeptOrIssuedAnew(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string, r *Request)
		kept   bool
	}{
		{"nothing changed", func(*testing.T, string, *Request) {}, true},
		{"another address", func(_ *testing.T, _ string, r *Request) {
			r.Addresses = []netip.Addr{netip.MustParseAddr("10.88.1.11")}
		}, false},
		{"another name", func(_ *testing.T, _ string, r *Request) { r.Names = nil }, false},
		{"another group", func(_ *testing.T, _ string, r *Request) { r.Organizations = nil }, false},
		{"no client any more", func(_ *testing.T, _ string, r *Request) { r.Client = false }, false},
		{"key lost", func(t *testing.T, dir string, _ *Request) { remove(t, dir, "server.key") }, false},
		{"certificate not written", func(t *testing.T, dir string, _ *Request) { remove(t, dir, "server.crt") }, false},
		{"key of another", func(t *testing.T, dir string, _ *Request) { copyFile(t, dir, "ca.key", "server.key") }, false},
		{"another authority", func(t *testing.T, dir string, _ *Request) { remove(t, dir, "ca.crt") }, false},
		{"ends soon", func(t *testing.T, dir string, r *Request) { issueOld(t, dir, *r, RenewBefore-time.Hour) }, false},
		{"ends later", func(t *testing.T, dir string, r *Request) { issueOld(t, dir, *r, RenewBefore+time.Hour) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, r := t.TempDir(), server
			ensure(t, authority(t, dir), dir, r)
			c.change(t, dir, &r)
			before, _ := os.ReadFile(filepath.Join(dir, "server.crt"))
			ensure(t, authority(t, dir), dir, r)
			after, err := os.ReadFile(filepath.Join(dir, "server.crt"))
			if err != nil {
				t.Fatal(err)
			}
			if kept := string(before) == string(after); kept != c.kept {
				t.Errorf("kept: %v", kept)
			}
		})
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	for _, lost := range []string{"ca.key", ""} {
		dir := t.TempDir()
		ensure(t, authority(t, dir), dir, server)
		if lost != "" {
			remove(t, dir, lost)
		} else {
			copyFile(t, dir, "server.key", "ca.key")
		}
		if _, err := EnsureAuthority(dir, "ca", "test-ca"); err == nil {
			t.Errorf("with %q lost: no error", lost)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	a := authority(t, dir)
	p, err := a.Ensure(dir, "server", server)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Kubeconfig("https://10.88.1.10:6443", "alpha", "admin", a.CertificatePEM(), p)
	if err != nil {
		t.Fatal(err)
	}
	access, err := kubeconfig.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if access.Server != "https://10.88.1.10:6443" {
		t.Errorf("server = %q", access.Server)
	}
}

// issueOld replaces the certificate by one that ends so soon.
func issueOld(t *testing.T, dir string, r Request, left time.Duration) {
	t.Helper()
	if _, _, err := issue(pairAt(dir, "server"), r.template(time.Now().Add(left-CertificateLife)),
		authority(t, dir)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, dir, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, from))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, to), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
