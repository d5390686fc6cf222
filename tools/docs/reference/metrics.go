package reference

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/serve"
	"github.com/keyturn/keyturn/internal/probe"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/signer/signercmd"
	"github.com/keyturn/keyturn/signer"
)

// metric is a family of metrics.
type metric struct {
	name, kind, help string
	labels           []string
}

// catalogue is a prometheus.Registerer that describes what is registered with it.
type catalogue struct{ metrics []metric }

// program is a program with its metrics.
type program struct {
	name, where string
	register    func(*catalogue) error
}

var programs = []program{
	{"keyturn-controller",
		"Served at `--metrics-bind-address`; by the chart on port 8443, to those who may get `/metrics`.",
		func(c *catalogue) error { return c.registerAll(controller.Metrics()) }},
	{"keyturn-signer", "Served at `--metrics-bind-address`: a loopback address, or a Unix socket.", registerSigner},
	{"keyturn-local", "Served at `--metrics-bind-address`.", func(c *catalogue) error {
		remote.RegisterMetrics(c)
		return c.Register(serve.Metrics(plane.New(nil, nil, nil)))
	}},
	{"keyturn-probe", "Served at the address of `-listen`, in tests and demos.", func(c *catalogue) error {
		return c.Register(probe.Metrics())
	}},
}

// metricsPage describes the metrics of all programs.
func metricsPage(string) (*page, error) {
	p := newPage("Metrics")
	p.text("All programs serve metrics for Prometheus. Those of a cluster have the labels `namespace` and `name` of its " +
		"UserCluster. The alerts and the dashboard of the chart use them " +
		"([install.md](../operations/install.md#metrics-and-alerts)).")
	for _, of := range programs {
		c := &catalogue{}
		if err := of.register(c); err != nil {
			return nil, err
		}
		p.heading(2, of.name)
		p.text(of.where)
		p.metrics(c.metrics)
	}
	p.heading(2, "Libraries")
	p.text("The controller has these of controller-runtime and client-go, too. All programs but the probe have those of " +
		"Go (`go_…`) and of their process (`process_…`).")
	libraries := &catalogue{}
	if err := libraries.Register(metrics.Registry.(prometheus.Collector)); err != nil {
		return nil, err
	}
	p.metrics(slices.DeleteFunc(libraries.metrics, func(m metric) bool {
		prefix, _, _ := strings.Cut(m.name, "_")
		return prefix == "keyturn" || prefix == "go" || prefix == "process"
	}))
	return p, nil
}

// metrics lists families of metrics by their names.
func (p *page) metrics(list []metric) {
	slices.SortFunc(list, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	for _, m := range list {
		var facts []string
		if m.kind != "" {
			facts = append(facts, m.kind)
		}
		if len(m.labels) > 0 {
			facts = append(facts, "by `"+strings.Join(m.labels, "`, `")+"`")
		}
		p.entry(0, m.name, facts, m.help)
	}
	p.WriteByte('\n')
}

// registerSigner registers the metrics of a signer without keys.
func registerSigner(c *catalogue) error {
	dir, err := os.MkdirTemp("", "keyturn-docs-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := c.Register(signercmd.Metrics()); err != nil {
		return err
	}
	_, err = signer.New(signer.Options{KeyDir: filepath.Join(dir, "keys"), Metrics: c, Log: slog.New(slog.DiscardHandler)})
	return err
}

func (c *catalogue) registerAll(all []prometheus.Collector) error {
	for _, one := range all {
		if err := c.Register(one); err != nil {
			return err
		}
	}
	return nil
}

// Register implements prometheus.Registerer.
func (c *catalogue) Register(from prometheus.Collector) error {
	described := make(chan *prometheus.Desc)
	go func() {
		defer close(described)
		from.Describe(described)
	}()
	var err error
	for d := range described {
		m, wrong := read(d.String())
		if wrong != nil {
			err = wrong
			continue
		}
		m.kind = kindOf(from, m.name)
		c.metrics = append(c.metrics, m)
	}
	return err
}

// MustRegister implements prometheus.Registerer.
func (c *catalogue) MustRegister(all ...prometheus.Collector) {
	if err := c.registerAll(all); err != nil {
		panic(err)
	}
}

// Unregister implements prometheus.Registerer.
func (c *catalogue) Unregister(prometheus.Collector) bool { return false }

// kindOf is the type of a collector's metrics. A collector that makes its metrics when they are asked for has counters,
// whose names end with _total as promlinter wants it, and gauges. A whole registry does not say.
func kindOf(c prometheus.Collector, name string) string {
	switch c.(type) {
	case *prometheus.Registry:
		return ""
	case prometheus.Histogram, *prometheus.HistogramVec:
		return "histogram"
	}
	if strings.HasSuffix(name, "_total") {
		return "counter"
	}
	return "gauge"
}

var description = regexp.MustCompile(
	`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), unit: ".*", ` +
		`constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// read takes a description apart, which the library shows as text only.
func read(desc string) (m metric, err error) {
	parts := description.FindStringSubmatch(desc)
	if parts == nil {
		return m, fmt.Errorf("%s is not the description of a metric", desc)
	}
	if _, err := fmt.Sscanf(parts[1]+" "+parts[2], "%q %q", &m.name, &m.help); err != nil {
		return m, fmt.Errorf("reading %s: %w", desc, err)
	}
	if parts[3] != "" {
		m.labels = strings.Split(parts[3], ",")
	}
	return m, nil
}
