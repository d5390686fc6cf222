package chart

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestMonitorFindsService wants the ServiceMonitor to select the Service, by labels and by the name of the port, and to
// leave the label namespace to the metrics.
func TestMonitorFindsService(t *testing.T) {
	objects := named(render(t, "--values", "testdata/all.yaml"))
	monitor, service := objects["ServiceMonitor/keyturn-controller"], objects["Service/keyturn-controller-metrics"]
	if monitor == nil || service == nil {
		t.Fatal("there is no ServiceMonitor, or no Service")
	}
	labels, _, err := unstructured.NestedStringMap(monitor.Object, "spec", "selector", "matchLabels")
	if err != nil || len(labels) == 0 {
		t.Fatalf("the ServiceMonitor selects by %v: %v", labels, err)
	}
	for label, want := range labels {
		if got := service.GetLabels()[label]; got != want {
			t.Errorf("label %s of the Service is %q, want %q", label, got, want)
		}
	}
	endpoint, port := only(t, monitor, "endpoints"), only(t, service, "ports")
	if endpoint["port"] != port["name"] || endpoint["scheme"] != "https" || endpoint["honorLabels"] != true {
		t.Errorf("the ServiceMonitor gets %v from port %v", endpoint, port)
	}
}

// TestRuleIsTestedFile wants the PrometheusRule to hold what promtool tests, but for the age of a key that values set.
func TestRuleIsTestedFile(t *testing.T) {
	for days, args := range map[string][]string{
		"120": {"--set", "metrics.prometheusRule.enabled=true"}, "45": {"--values", "testdata/all.yaml"},
	} {
		rule := named(render(t, args...))["PrometheusRule/keyturn"]
		if rule == nil {
			t.Fatal("there is no PrometheusRule")
		}
		if diff := cmp.Diff(alerts(t, days), rule.Object["spec"]); diff != "" {
			t.Errorf("PrometheusRule (-tested +chart):\n%s", diff)
		}
	}
}

// only returns the only element of a list of the spec.
func only(t *testing.T, o *unstructured.Unstructured, list string) map[string]any {
	t.Helper()
	all, _, err := unstructured.NestedSlice(o.Object, "spec", list)
	if err != nil || len(all) != 1 {
		t.Fatalf("%s of %s: %v, %v; want one", list, o.GetName(), all, err)
	}
	return all[0].(map[string]any)
}

// alerts returns the file of the alert rules, with an age of a key in days.
func alerts(t *testing.T, days string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(chart + "/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(raw, []byte("120 * 86400")); n != 1 {
		t.Fatalf("120 days are in the alert rules %d times, want once", n)
	}
	raw = bytes.ReplaceAll(raw, []byte("120 * 86400"), []byte(days+" * 86400"))
	var rules map[string]any
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		t.Fatal(err)
	}
	return rules
}
