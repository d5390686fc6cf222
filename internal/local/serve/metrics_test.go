package serve

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
)

// TestMetrics counts clusters by what runs of them, and the processes that were started again.
func TestMetrics(t *testing.T) {
	h := plane.New(localtest.Data(t), localtest.NoPrograms(t), nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(Metrics(h))
	want := func(when string, want ...string) {
		t.Helper()
		if got := gathered(t, registry); !slices.Equal(got, want) {
			t.Errorf("%s: the metrics are %q, want %q", when, got, want)
		}
	}
	clusters := func(degraded, running int) []string {
		return []string{
			fmt.Sprintf("keyturn_local_clusters[degraded] %d", degraded),
			fmt.Sprintf("keyturn_local_clusters[running] %d", running),
			"keyturn_local_clusters[unknown] 0",
		}
	}
	want("without clusters", clusters(0, 0)...)
	planes := map[string]*plane.Plane{}
	for _, name := range []string{"ns.blue", "ns.green"} {
		site, err := h.Data.EnsureSite(name, "")
		if err != nil {
			t.Fatal(err)
		}
		planes[name] = h.Plane(components.Layout{Site: site})
	}
	start := func(cluster, process string) {
		t.Helper()
		startSleep(t, planes[cluster], process)
	}
	start("ns.blue", components.APIServerName(0))
	start("ns.blue", components.APIServerName(1))
	start("ns.green", components.APIServerName(0))
	want("with two", clusters(0, 2)...)
	kill(t, planes["ns.blue"].Processes, components.APIServerName(1))
	want("with a dead process", clusters(1, 1)...)
	start("ns.blue", components.APIServerName(1))
	want("with a restart", append(clusters(0, 2), "keyturn_local_process_restarts_total[apiserver] 1")...)
	if err := planes["ns.green"].Processes.Await(t.Context(), components.APIServerName(0), 0); err != nil {
		t.Fatal(err)
	}
	want("with a process that was stopped", append(clusters(1, 1), "keyturn_local_process_restarts_total[apiserver] 1")...)
	start("ns.green", components.APIServerName(0))
	want("with a process that was started after a stop",
		append(clusters(0, 2), "keyturn_local_process_restarts_total[apiserver] 1")...)
}

// startSleep starts a process of a control plane that does nothing.
func startSleep(t *testing.T, p *plane.Plane, name string) {
	t.Helper()
	if err := p.StartProcess(process.Spec{Name: name, Path: sleep(t), Args: []string{"1000"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Processes.Await(context.Background(), name, 0) })
}

// kill kills a process, and waits until it has ended.
func kill(t *testing.T, run *process.Runner, name string) {
	t.Helper()
	state, err := run.Observe(name)
	if err != nil || !state.Running {
		t.Fatalf("%s does not run: %v", name, err)
	}
	if err := syscall.Kill(state.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for state.Running {
		if state, err = run.Observe(name); err != nil {
			t.Fatal(err)
		}
	}
}

// gathered returns each metric as its name, labels and value.
func gathered(t *testing.T, r *prometheus.Registry) (all []string) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			all = append(all, fmt.Sprint(f.GetName(), labels, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	return all
}
