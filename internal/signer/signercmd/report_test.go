package signercmd

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/internal/signer"
	"github.com/keyturn/keyturn/internal/signer/backend"
)

// TestReport has metrics that cannot be gathered, and a signer that hangs: only the latter fails.
func TestReport(t *testing.T) {
	registry := prometheus.NewRegistry()
	uptime := time.Hour
	s, err := signer.New(signer.Options{
		KeyDir: t.TempDir(), Reload: time.Second, Backends: signer.Backends{PEM: backend.PEM{}, PKCS11: backend.PEM{}},
		Log: slog.New(slog.DiscardHandler), Metrics: registry, BootClock: func() time.Duration { return uptime },
	})
	if err != nil {
		t.Fatal(err)
	}
	registry.MustRegister(broken{})
	if _, err := registry.Gather(); err == nil {
		t.Error("the broken metric can be gathered")
	}
	r, err := report(s, registry)
	if err != nil || r.Renew || r.Problem == "" || !strings.Contains(r.Metrics, "\nkeyturn_signer_fetch_keys_total 0\n") {
		t.Errorf("%+v, %v", r, err)
	}
	uptime += time.Hour
	if _, err := report(s, registry); !errors.Is(err, signer.ErrStuck) {
		t.Errorf("a signer that hangs: %v, want %v", err, signer.ErrStuck)
	}
}

// broken is a metric that cannot be gathered.
type broken struct{}

func (broken) Describe(chan<- *prometheus.Desc) {}

func (broken) Collect(all chan<- prometheus.Metric) {
	all <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(errors.New("broken")), errors.New("broken"))
}
