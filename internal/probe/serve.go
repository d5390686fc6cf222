package probe

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serve answers /metrics, /report and /readyz until stop is called.
func (r *runner) serve() (stop func(), err error) {
	if r.Listen == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", r.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for /metrics and /report: %w", err)
	}
	server := &http.Server{Handler: handler(r.rec), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, nil
}

// handler serves what a recorder knows: /metrics for Prometheus, /report as JSON, and /readyz, which is
// ok as soon as each kind of token that is in use was accepted somewhere.
func handler(rec *recorder) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{rec})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(rec.snapshot())
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !rec.ready() {
			http.Error(w, "not every kind of token has been accepted yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

var (
	requestsDesc = prometheus.NewDesc("keyturn_probe_requests_total",
		"Uses of tokens.", []string{"token", "server", "kid", "result"}, nil)
	refusalsDesc = prometheus.NewDesc("keyturn_probe_refusals_total",
		"Uses of tokens that were refused.", []string{"token", "server", "kid"}, nil)
	staleDesc = prometheus.NewDesc("keyturn_probe_stale_seconds_max",
		"Longest time for which a server refused the token.", []string{"token", "server"}, nil)
	mountedDesc = prometheus.NewDesc("keyturn_probe_mounted_token",
		"The kid of the token that is in its file now.", []string{"token", "kid"}, nil)
	lagDesc = prometheus.NewDesc("keyturn_probe_legacy_file_lag_seconds_max",
		"Longest time for which the file of the legacy token was behind its Secret.", nil, nil)
)

// collector turns a report into metrics at each scrape.
type collector struct{ rec *recorder }

// Metrics describes the metrics of a probe, for their reference.
func Metrics() prometheus.Collector { return collector{} }

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, refusalsDesc, staleDesc, mountedDesc, lagDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	report := c.rec.snapshot()
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	for _, l := range report.Lines {
		kind := string(l.Kind)
		for kid, n := range l.KeyIDs {
			ch <- prometheus.MustNewConstMetric(requestsDesc, counter, float64(n.Accepted), kind, l.Server, kid,
				string(accepted))
			ch <- prometheus.MustNewConstMetric(requestsDesc, counter, float64(n.Refused), kind, l.Server, kid, string(refused))
			ch <- prometheus.MustNewConstMetric(requestsDesc, counter, float64(n.Unavailable), kind, l.Server, kid,
				string(unavailable))
			ch <- prometheus.MustNewConstMetric(refusalsDesc, counter, float64(n.Refused), kind, l.Server, kid)
		}
		ch <- prometheus.MustNewConstMetric(staleDesc, gauge, l.StaleSeconds, kind, l.Server)
	}
	for kind, kid := range report.Mounted {
		ch <- prometheus.MustNewConstMetric(mountedDesc, gauge, 1, string(kind), kid)
	}
	ch <- prometheus.MustNewConstMetric(lagDesc, gauge, report.FileLag.MaxSeconds)
}
