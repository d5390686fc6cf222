package signer

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The results of Sign with a key.
const (
	resultSigned = "signed"
	resultError  = "error"
)

type metrics struct {
	signatures *prometheus.CounterVec
	noKey      struct{ invalid, unavailable prometheus.Counter }
	duration   prometheus.Histogram
	fetches    prometheus.Counter

	reloadErrors prometheus.Counter
	lastReload   prometheus.Gauge
}

func newMetrics(s *Signer, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		signatures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyturn_signer_signatures_total",
			Help: "Sign calls by kid and result: signed, error; without a kid: invalid (bad claims), unavailable (no key may " +
				"sign).",
		}, []string{"kid", "result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "keyturn_signer_sign_duration_seconds",
			Help:    "How long Sign took when it signed.",
			Buckets: prometheus.ExponentialBuckets(32e-6, 2, 16),
		}),
		fetches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyturn_signer_fetch_keys_total",
			Help: "FetchKeys calls. A flood means tokens with kids that the API server does not know.",
		}),
		reloadErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyturn_signer_reload_errors_total",
			Help: "Reads of the key directory that failed, so that the last good key set was kept.",
		}),
		lastReload: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keyturn_signer_last_reload_success_timestamp_seconds",
			Help: "When the key directory was last read and found good.",
		}),
	}
	m.noKey.invalid = m.signatures.WithLabelValues("", "invalid")
	m.noKey.unavailable = m.signatures.WithLabelValues("", "unavailable")
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keyturn_signer_key_set_age_seconds",
		Help: "How long ago the key set that is served was last read from the key directory; -1 without one.",
	}, s.age)
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.signatures, m.duration, m.fetches, m.reloadErrors, m.lastReload, age, ledgerMetrics{s},
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (s *Signer) age() float64 {
	set := s.set.Load()
	if set == nil {
		return -1
	}
	return s.env.now().Sub(set.readAt).Seconds()
}

func (m *metrics) count(k *key, result string) { m.signatures.WithLabelValues(k.KeyID, result).Inc() }

func (m *metrics) reloaded(at time.Time) { m.lastReload.Set(float64(at.UnixMilli()) / 1000) }

// forget removes the series of keys that are gone, so that they do not accumulate over rotations.
func (m *metrics) forget(old, now *keySet) {
	if old == nil {
		return
	}
	kept := map[string]bool{}
	for _, k := range now.keys {
		kept[k.KeyID] = true
	}
	for _, k := range old.keys {
		if !kept[k.KeyID] {
			m.signatures.DeletePartialMatch(prometheus.Labels{"kid": k.KeyID})
		}
	}
}

// ledgerMetrics are the metrics of the ledger as of its last Tend.
type ledgerMetrics struct{ *Signer }

var (
	ledgerEntries = prometheus.NewDesc("keyturn_signer_ledger_entries",
		"Entries of the ledger that have not expired, the coarse ones included.", nil, nil)
	ledgerCoarse = prometheus.NewDesc("keyturn_signer_ledger_coarse_entries",
		"Entries that may stand for several accounts, audiences or objects, since the ledger was full.", nil, nil)
	ledgerBytes = prometheus.NewDesc("keyturn_signer_ledger_bytes",
		"Memory that the ledger uses, including its file.", nil, nil)
	ledgerExpiry = prometheus.NewDesc("keyturn_signer_ledger_last_expiry_timestamp_seconds",
		"When the last token of a key expires. The version is empty once the key is no longer in the key directory.",
		[]string{"kid", "version"}, nil)
)

// Describe implements prometheus.Collector.
func (m ledgerMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ledgerEntries, ledgerCoarse, ledgerBytes, ledgerExpiry} {
		to <- d
	}
}

// Collect implements prometheus.Collector. Without a ledger there are no figures.
func (m ledgerMetrics) Collect(to chan<- prometheus.Metric) {
	stats := m.tokens.stats.Load()
	if stats == nil {
		return
	}
	to <- prometheus.MustNewConstMetric(ledgerEntries, prometheus.GaugeValue, float64(stats.Entries))
	to <- prometheus.MustNewConstMetric(ledgerCoarse, prometheus.GaugeValue, float64(stats.Coarse))
	to <- prometheus.MustNewConstMetric(ledgerBytes, prometheus.GaugeValue, float64(stats.Bytes))
	versions := map[string]string{}
	if set := m.set.Load(); set != nil {
		for _, k := range set.keys {
			versions[k.KeyID] = strconv.Itoa(k.version)
		}
	}
	for kid, expires := range stats.Expires {
		to <- prometheus.MustNewConstMetric(ledgerExpiry, prometheus.GaugeValue, float64(expires.Unix()), kid, versions[kid])
	}
}
