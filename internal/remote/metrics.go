package remote

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serverMetrics are those of a Server: calls of its methods, and how long they took.
type serverMetrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// newServerMetrics makes the metrics, and registers them unless nobody wants them.
func newServerMetrics(r prometheus.Registerer) serverMetrics {
	m := serverMetrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyturn_local_requests_total",
			Help: "Calls of controllers, by method and HTTP status code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyturn_local_request_duration_seconds",
			Help:    "How long calls of controllers took, by method.",
			Buckets: prometheus.ExponentialBuckets(1e-3, 4, 8),
		}, []string{"method"}),
	}
	if r != nil {
		r.MustRegister(m.calls, m.duration)
	}
	return m
}

// RegisterMetrics registers the metrics that a Server has, for their reference.
func RegisterMetrics(r prometheus.Registerer) { newServerMetrics(r) }

// observe has the calls of a method counted.
func (m serverMetrics) observe(method string, h http.Handler) http.Handler {
	of := prometheus.Labels{"method": method}
	return promhttp.InstrumentHandlerDuration(m.duration.MustCurryWith(of),
		promhttp.InstrumentHandlerCounter(m.calls.MustCurryWith(of), h))
}

// routes are the handlers of methods, each of which is observed.
type routes struct {
	*http.ServeMux
	metrics serverMetrics
}
