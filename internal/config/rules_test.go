package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRulesOfFields wants each rule to be one of a field, of the type that the rule is for: a field of another name
// would have no rule.
func TestRulesOfFields(t *testing.T) {
	for _, path := range slices.Concat(
		slices.Collect(maps.Keys(values)), slices.Collect(maps.Keys(durations)), slices.Collect(maps.Keys(counts)),
	) {
		field := typeAt(t, path)
		_, isDuration := durations[path]
		_, isCount := counts[path]
		if isDuration != (field == reflect.TypeFor[time.Duration]()) || isCount && field.Kind() != reflect.Int32 {
			t.Errorf("%s is a %s", path, field)
		}
		if Rule(path) == "" {
			t.Errorf("%s has an empty rule", path)
		}
	}
	for _, f := range ofLocal {
		typeAt(t, f.field)
		if !OnlyLocal(f.field) {
			t.Errorf("%s is not only for clusters that Keyturn makes", f.field)
		}
	}
	if OnlyLocal("gkeConnect") {
		t.Error("gkeConnect is only for clusters that Keyturn makes")
	}
}

// typeAt is the type of the field at a path.
func typeAt(t *testing.T, path string) reflect.Type {
	t.Helper()
	at := reflect.TypeFor[UserCluster]()
	for name := range strings.SplitSeq(path, ".") {
		known, _ := fields(at)
		f, ok := known[strings.TrimSuffix(name, "[]")]
		if !ok {
			t.Fatalf("there is no field %s", path)
		}
		at = f.Type
		for at.Kind() == reflect.Pointer || at.Kind() == reflect.Slice {
			at = at.Elem()
		}
	}
	return at
}

func TestRule(t *testing.T) {
	for path, want := range map[string]string{
		"ksaSigningKey.source": "external or files", "nodePools[3].replicas": "0 to 100",
		"ksaSigningKey.retireTimeout": "1s to 8760h", "masterNode.replicas": "1 or 3",
		"nodePools[0].taints[1].effect": "NoSchedule or PreferNoSchedule or NoExecute",
		"name":                          "",
	} {
		if got := Rule(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
