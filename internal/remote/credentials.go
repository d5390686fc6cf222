package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Credentials are the files with which each side authenticates itself and the other. They are read for each new
// connection, so that certificates can be renewed while programs run.
type Credentials struct {
	// Cert and Key are the own certificate and its private key, and CA the authority of the other side's, all in PEM.
	Cert, Key, CA string
}

// CredentialsIn returns the files of a directory, named as in a Secret of type kubernetes.io/tls.
func CredentialsIn(dir string) Credentials {
	return Credentials{
		Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt"),
	}
}

// load reads the files.
func (c Credentials) load() (tls.Certificate, *x509.CertPool, error) {
	own, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return own, nil, fmt.Errorf("reading %s and %s: %w", c.Cert, c.Key, err)
	}
	raw, err := os.ReadFile(c.CA)
	if err != nil {
		return own, nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return own, nil, fmt.Errorf("%s holds no certificate", c.CA)
	}
	return own, pool, nil
}

// nextProtos is the only protocol that both sides speak.
var nextProtos = []string{"h2"}

// server accepts clients with a certificate of the authority.
func (c Credentials) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: nextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			own, pool, err := c.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: nextProtos, SessionTicketsDisabled: true,
				Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			}, nil
		},
	}
}

// dial connects to a server with a certificate of the authority for its address.
func (c Credentials) dial(ctx context.Context, network, address string) (net.Conn, error) {
	own, pool, err := c.load()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: nextProtos, ServerName: host,
		Certificates: []tls.Certificate{own}, RootCAs: pool,
	}}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == nextProtos[0] {
		return conn, nil
	}
	return nil, errors.Join(errors.New("the server does not speak HTTP/2"), conn.Close())
}
