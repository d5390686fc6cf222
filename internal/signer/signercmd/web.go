package signercmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/internal/signer/supervisor"
)

// web serves the child's last report. It runs in the parent, which has no key.
type web struct {
	log    *slog.Logger
	status atomic.Pointer[supervisor.Status]
}

// note receives each new status.
func (w *web) note(s supervisor.Status) { w.status.Store(&s) }

// The limits for clients: on loopback, every user of the host is one.
const (
	webConnections = 32
	webRequest     = 5 * time.Second
	webIdle        = 5 * time.Second
	webHeader      = 8 << 10
	// webRetry is how long to wait before an address in use is tried again.
	webRetry = 5 * time.Second
)

// keep serves on an address until ctx ends. Signing must continue without metrics, so a failure is logged, once, and
// the address is tried again.
func (w *web) keep(ctx context.Context, address string) {
	retry := time.NewTicker(webRetry)
	defer retry.Stop()
	for said := ""; ; {
		err := w.serve(ctx, address)
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != said {
			w.log.Error("metrics and health are not served, and it is tried again", "error", err)
			said = text
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		}
	}
}

// serve always returns an error.
func (w *web) serve(ctx context.Context, address string) error {
	l, err := listen(address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: w.handler(), ReadTimeout: webRequest, WriteTimeout: webRequest, IdleTimeout: webIdle,
		MaxHeaderBytes: webHeader, ErrorLog: slog.NewLogLogger(w.log.Handler(), slog.LevelWarn),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	return fmt.Errorf("serving metrics: %w", server.Serve(netutil.LimitListener(l, webConnections)))
}

func listen(address string) (net.Listener, error) {
	if strings.HasPrefix(address, "/") {
		return socket.Listen(address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	return l, nil
}

func (w *web) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(out, "ok") })
	mux.HandleFunc("GET /readyz", func(out http.ResponseWriter, _ *http.Request) {
		if err := w.ready(); err != nil {
			http.Error(out, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(out, "ok")
	})
	mux.HandleFunc("GET /metrics", func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = fmt.Fprint(out, w.metrics())
	})
	return mux
}

// ready returns why the signer cannot sign, according to its child's last report.
func (w *web) ready() error {
	switch s := w.status.Load(); {
	case s == nil || s.Report == nil:
		return errors.New("no child serves")
	case s.Report.Problem != "":
		return errors.New(s.Report.Problem)
	}
	return nil
}

// metrics returns the metrics of the child, if there is one, and the parent's own.
func (w *web) metrics() string {
	s := w.status.Load()
	if s == nil {
		s = &supervisor.Status{}
	}
	own := prometheus.NewRegistry()
	own.MustRegister(parentMetrics{s})
	text := asText(own)
	if s.Report != nil {
		text += s.Report.Metrics
	}
	return text
}

var (
	handOversDesc = prometheus.NewDesc("keyturn_signer_hand_overs_total",
		"Children that another one took over from.", nil, nil)
	restartsDesc = prometheus.NewDesc("keyturn_signer_restarts_total", "Children that died.", nil, nil)
)

// parentMetrics are the metrics of the parent.
type parentMetrics struct{ *supervisor.Status }

// Metrics describes the metrics of the parent, for their reference.
func Metrics() prometheus.Collector { return parentMetrics{} }

// Describe implements prometheus.Collector.
func (parentMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- handOversDesc
	to <- restartsDesc
}

// Collect implements prometheus.Collector.
func (m parentMetrics) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(handOversDesc, prometheus.CounterValue, float64(m.HandOvers))
	to <- prometheus.MustNewConstMetric(restartsDesc, prometheus.CounterValue, float64(m.Deaths))
}
