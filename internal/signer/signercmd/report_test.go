package signercmd

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/signer"
)

// TestReport has metrics that cannot be gathered, and a signer that hangs: only the latter fails.
func TestReport(t *testing.T) {
	registry := prometheus.NewRegistry()
	s, err := signer.New(signer.Options{KeyDir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Metrics: registry})
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
	if _, err := report(stuck{s}, registry); !errors.Is(err, signer.ErrStuck) {
		t.Errorf("a signer that hangs: %v, want %v", err, signer.ErrStuck)
	}
}

// stuck is a signer whose reading of the key directory hangs.
type stuck struct{ *signer.Signer }

func (stuck) Check() error { return signer.ErrStuck }

// broken is a metric that cannot be gathered.
type broken struct{}

func (broken) Describe(chan<- *prometheus.Desc) {}

func (broken) Collect(all chan<- prometheus.Metric) {
	all <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(errors.New("broken")), errors.New("broken"))
}
