// Package pki keeps certificate authorities and the certificates they issue as files.
//
// Everything is level-triggered: what exists and is valid is kept; what is missing or about to expire is issued. All
// keys are ECDSA on P-256, and all files have mode 0600.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// How long certificates are valid, and how long before its end a certificate is issued again.
const (
	AuthorityLife   = 10 * 365 * 24 * time.Hour
	CertificateLife = 365 * 24 * time.Hour
	RenewBefore     = 30 * 24 * time.Hour
	backdate        = 5 * time.Minute
)

// Pair is the paths of a certificate and its private key.
type Pair struct{ CertFile, KeyFile string }

// Authority is a certificate authority.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// Request is the content of a certificate.
type Request struct {
	CommonName    string
	Organizations []string
	// Addresses and Names are what a server is reached by.
	Addresses []netip.Addr
	Names     []string
	Server    bool
	Client    bool
}

// EnsureAuthority returns the authority DIR/NAME.crt, and creates it if it does not exist.
func EnsureAuthority(dir, name, commonName string) (*Authority, error) {
	a, err := ensureAuthority(dir, name, commonName)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", filepath.Join(dir, name), err)
	}
	return a, nil
}

func ensureAuthority(dir, name, commonName string) (*Authority, error) {
	p := pairAt(dir, name)
	cert, key, err := load(p)
	if err == nil {
		return &Authority{Pair: p, cert: cert, key: key}, nil
	}
	if _, statErr := os.Stat(p.CertFile); !errors.Is(statErr, fs.ErrNotExist) {
		return nil, err // damaged: a new one would lock out everybody who trusts it
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(AuthorityLife),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	cert, key, err = issue(p, template, nil)
	if err != nil {
		return nil, err
	}
	return &Authority{Pair: p, cert: cert, key: key}, nil
}

// CertificatePEM returns the authority's certificate, for those who should trust it.
func (a *Authority) CertificatePEM() []byte { return encodeCertificate(a.cert.Raw) }

// Pool trusts only the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Ensure returns the certificate DIR/NAME.crt, and issues it if it is missing, differs from the request, is not from
// this authority, or ends within RenewBefore.
func (a *Authority) Ensure(dir, name string, r Request) (Pair, error) {
	p := pairAt(dir, name)
	cert, _, err := load(p)
	if err == nil && a.good(cert, r, time.Now()) {
		return p, nil
	}
	if _, _, err := issue(p, r.template(time.Now()), a); err != nil {
		return Pair{}, fmt.Errorf("issuing certificate %s: %w", p.CertFile, err)
	}
	return p, nil
}

func (a *Authority) good(cert *x509.Certificate, r Request, now time.Time) bool {
	want := r.template(now)
	sameAddress := func(x, y net.IP) bool { return x.Equal(y) }
	return now.Add(RenewBefore).Before(cert.NotAfter) &&
		cert.CheckSignatureFrom(a.cert) == nil &&
		cert.Subject.CommonName == r.CommonName &&
		slices.Equal(cert.Subject.Organization, r.Organizations) &&
		slices.Equal(cert.DNSNames, r.Names) &&
		slices.EqualFunc(cert.IPAddresses, want.IPAddresses, sameAddress) &&
		slices.Equal(cert.ExtKeyUsage, want.ExtKeyUsage)
}

func (r Request) template(now time.Time) *x509.Certificate {
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: r.CommonName, Organization: r.Organizations},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(CertificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: r.Names, BasicConstraintsValid: true,
	}
	for _, a := range r.Addresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	if r.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	return t
}

// issue makes a key and a certificate for it, signed by an authority or, if that is nil, self-signed.
func issue(p Pair, template *x509.Certificate, by *Authority) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
		if template.NotAfter.After(parent.NotAfter) {
			template.NotAfter = parent.NotAfter
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	if err := write(p, der, key); err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func write(p Pair, der []byte, key crypto.PrivateKey) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.KeyFile), 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(p.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return err
	}
	// After a crash here, the certificate is missing or does not belong to this key, so load fails and both are made
	// again. For an authority it can only be missing, since an existing one is never replaced.
	return atomicfile.Write(p.CertFile, encodeCertificate(der))
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func pairAt(dir, name string) Pair {
	return Pair{CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key")}
}

// load reads a pair and checks that its parts belong together.
func load(p Pair) (*x509.Certificate, crypto.Signer, error) {
	der, err := readPEM(p.CertFile, "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.CertFile, err)
	}
	pkcs8, err := readPEM(p.KeyFile, "PRIVATE KEY")
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, nil, fmt.Errorf("%s holds no private key", p.KeyFile)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", p.KeyFile, p.CertFile)
	}
	return cert, ec, nil
}

func readPEM(path, kind string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s does not hold one %s", path, kind)
	}
	return block.Bytes, nil
}
