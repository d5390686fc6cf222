package localcmd

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

// metricsFlags configure where metrics are served. They have the same names as in keyturn-controller.
type metricsFlags struct {
	address string
	secure  bool
	certs   string
}

func (f *metricsFlags) addFlags(set *flag.FlagSet) {
	set.StringVar(&f.address, "metrics-bind-address", "", "`address` on which /metrics is served (default: none)")
	set.BoolVar(&f.secure, "metrics-secure", false,
		"serve /metrics with TLS, to users whom the admin cluster authenticates and authorizes")
	set.StringVar(&f.certs, "metrics-cert-dir", "",
		"`directory` of tls.crt and tls.key for --metrics-secure (default: a self-signed certificate)")
}

// validate refuses metrics that could be read from other hosts without authentication.
func (f *metricsFlags) validate() error {
	if f.certs != "" && !f.secure {
		return errors.New("--metrics-cert-dir needs --metrics-secure")
	}
	if f.address == "" {
		return nil
	}
	at, err := netip.ParseAddrPort(f.address)
	if err != nil {
		return fmt.Errorf("--metrics-bind-address %q is not an address with a port", f.address)
	}
	if !at.Addr().IsLoopback() && !f.secure {
		return fmt.Errorf("--metrics-bind-address %q is not on loopback, and needs --metrics-secure", f.address)
	}
	return nil
}

// newRegistry returns a registry with the metrics of this process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// The limits for clients.
const (
	metricsConnections = 32
	metricsTimeout     = 10 * time.Second
	metricsIdle        = 2 * time.Minute
	metricsHeader      = 64 << 10
	// metricsRetry is how long to wait before an address in use is tried again.
	metricsRetry = 5 * time.Second
)

// metricsServer serves the metrics of a registry.
type metricsServer struct {
	metricsFlags
	registry *prometheus.Registry
	// admin reaches the admin cluster, which decides who may read metrics that are served with TLS.
	admin func() (*rest.Config, error)
	log   *slog.Logger
}

// keep serves until ctx ends. Clusters must run even without metrics, so a failure is logged, once, and the address is
// tried again.
func (s *metricsServer) keep(ctx context.Context) {
	retry := time.NewTicker(metricsRetry)
	defer retry.Stop()
	for said := ""; ; {
		err := s.listenAndServe(ctx)
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != said {
			s.log.Error("metrics are not served, and it is tried again", "error", err)
			said = text
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		}
	}
}

func (s *metricsServer) listenAndServe(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.address)
	if err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	return s.serve(ctx, l)
}

// serve serves on a listener, which it closes. It always returns an error.
func (s *metricsServer) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	server := &http.Server{
		Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, IdleTimeout: metricsIdle,
		MaxHeaderBytes: metricsHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	l = netutil.LimitListener(l, metricsConnections)
	metrics := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{ErrorLog: server.ErrorLog})
	if !s.secure {
		mux.Handle("GET /metrics", metrics)
		return fmt.Errorf("serving metrics: %w", server.Serve(l))
	}
	certificate, err := s.certificate()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate}
	mux.Handle("GET /metrics", guard{s.admin, s.log}.protect(metrics))
	return fmt.Errorf("serving metrics: %w", server.ServeTLS(l, "", ""))
}

// certificate returns a function that gets the certificate: each time from its files, which may be replaced.
func (s *metricsServer) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if s.certs != "" {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(filepath.Join(s.certs, "tls.crt"), filepath.Join(s.certs, "tls.key"))
			return &pair, err
		}, nil
	}
	crt, key, err := cert.GenerateSelfSignedCertKeyWithFixtures("localhost", []net.IP{{127, 0, 0, 1}}, nil, "")
	if err != nil {
		return nil, fmt.Errorf("making a certificate for metrics: %w", err)
	}
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for metrics: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }, nil
}
