package serve

import (
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
)

// The states of a cluster, as its processes show them.
const (
	stateRunning  = "running"  // all recorded processes run
	stateDegraded = "degraded" // some do not, or are ending
	stateUnknown  = "unknown"  // they cannot be read
)

var clustersDesc = prometheus.NewDesc("keyturn_local_clusters",
	"User clusters of this host, by state: running, degraded (a process does not run, or is ending), or unknown.",
	[]string{"state"}, nil)

// collector collects the metrics of a host.
type collector struct{ host *plane.Host }

// Metrics returns the metrics of a host: its clusters by state, and the restarts of processes.
func Metrics(h *plane.Host) prometheus.Collector { return collector{h} }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- clustersDesc
	c.host.Restarts.Describe(to)
}

// Collect implements prometheus.Collector. It observes the processes each time.
func (c collector) Collect(to chan<- prometheus.Metric) {
	c.host.Restarts.Collect(to)
	sites, err := c.host.Data.Sites()
	if err != nil {
		to <- prometheus.NewInvalidMetric(clustersDesc, err)
		return
	}
	count := map[string]int{stateRunning: 0, stateDegraded: 0, stateUnknown: 0}
	for _, s := range sites {
		count[stateOf(s)]++
	}
	for state, n := range count {
		to <- prometheus.MustNewConstMetric(clustersDesc, prometheus.GaugeValue, float64(n), state)
	}
}

// runDirs returns the directories of a cluster's processes: those of its control plane, and one for each machine.
func runDirs(s datadir.Site) ([]string, error) {
	machines, err := filepath.Glob(filepath.Join(s.Path("machines"), "*", "run"))
	return append(machines, s.Path("run")), err
}

// stateOf returns the state of a cluster.
func stateOf(s datadir.Site) string {
	dirs, err := runDirs(s)
	if err != nil {
		return stateUnknown
	}
	state := stateRunning
	for _, dir := range dirs {
		run := process.New(dir)
		names, err := run.Names()
		if err != nil {
			return stateUnknown
		}
		for _, name := range names {
			seen, err := run.Observe(name)
			switch {
			case err != nil:
				return stateUnknown
			case !seen.Running || seen.Stopping:
				state = stateDegraded
			}
		}
	}
	return state
}
