package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/yaml"

	_ "github.com/keyturn/keyturn/internal/controller" // registers its metrics
)

// grafana is the part of a dashboard of Grafana that has expressions.
type grafana struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
}

// dashboard returns the dashboard that the chart makes.
func dashboard(t *testing.T) grafana {
	t.Helper()
	config := named(render(t, "--values", "testdata/all.yaml"))["ConfigMap/keyturn-grafana-dashboard"]
	if config == nil {
		t.Fatal("there is no ConfigMap")
	}
	if got := config.GetLabels()["grafana_dashboard"]; got != "1" {
		t.Errorf("label grafana_dashboard is %q, want 1: the sidecar does not find it", got)
	}
	data, _, err := unstructured.NestedString(config.Object, "data", "keyturn.json")
	if err != nil {
		t.Fatal(err)
	}
	var d grafana
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// registered are the names of all metrics of the controller.
func registered() map[string]bool {
	all := make(chan *prometheus.Desc, 1000)
	metrics.Registry.(prometheus.Collector).Describe(all)
	close(all)
	names := map[string]bool{}
	name := regexp.MustCompile(`fqName: "(\w+)"`)
	for d := range all {
		names[name.FindStringSubmatch(d.String())[1]] = true
	}
	return names
}

// TestGrafanaDashboard wants each expression to be valid PromQL, as promtool reads it, about metrics that the
// controller has.
func TestGrafanaDashboard(t *testing.T) {
	d, known := dashboard(t), registered()
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	seen := map[string]bool{}
	metric := regexp.MustCompile(`keyturn_\w+`)
	check := func(title, expression string) {
		for _, name := range metric.FindAllString(expression, -1) {
			if seen[name] = true; !known[name] {
				t.Errorf("%s: the controller has no metric %s", title, name)
			}
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			check(p.Title, target.Expr)
			rules = append(rules, rule{fmt.Sprintf("panel:%d", len(rules)), target.Expr})
		}
	}
	for _, v := range d.Templating.List {
		check("variable "+v.Name, fmt.Sprint(v.Query))
	}
	if len(rules) < 10 || len(seen) < 7 {
		t.Errorf("%d expressions about %d metrics were checked", len(rules), len(seen))
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", "--lint=none", writeFile(t, file))
}

// rotations is a test of promtool for the panel of that name.
const rotations = `
rule_files: [%s]
tests:
  - input_series:
      - {series: 'keyturn_rotation_step{namespace="a", name="quiet", step="Switch"}', values: '0'}
      - {series: 'keyturn_rotation_step{namespace="a", name="runs", step="Publish"}', values: '0'}
      - {series: 'keyturn_rotation_step{namespace="a", name="runs", step="Switch"}', values: '1'}
      - {series: 'keyturn_rotation_step{namespace="a", name="stuck", step="Refresh"}', values: '1'}
      - {series: 'keyturn_rotation_blocked{namespace="a", name="quiet"}', values: '0'}
      - {series: 'keyturn_rotation_blocked{namespace="a", name="runs"}', values: '0'}
      - {series: 'keyturn_rotation_blocked{namespace="a", name="stuck"}', values: '1'}
    promql_expr_test:
      - expr: %q
        eval_time: 0
        exp_samples:
          - {labels: '{namespace="a", name="runs"}', value: 3}
          - {labels: '{namespace="a", name="stuck"}', value: 14}
`

// TestGrafanaRotations wants the panel of rotations to tell the step that runs, and whether it is blocked.
func TestGrafanaRotations(t *testing.T) {
	for _, p := range dashboard(t).Panels {
		if p.Title != "Rotations" {
			continue
		}
		all := strings.NewReplacer("$namespace", ".*", "$name", ".*").Replace(p.Targets[0].Expr)
		promtool(t, "test", "rules", writeFile(t, fmt.Appendf(nil, rotations, writeFile(t, []byte("groups: []\n")), all)))
		return
	}
	t.Error("there is no panel of rotations")
}

// promtool runs the pinned promtool.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	program, err := filepath.Abs(root + "bin/tools/promtool")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v\nhint: run `make bin/tools/promtool`", err)
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
