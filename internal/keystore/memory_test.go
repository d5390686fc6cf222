package keystore

import "testing"

// TestMemoryKeepsClustersApart has what is known of one cluster, and doubted, be its own.
func TestMemoryKeepsClustersApart(t *testing.T) {
	m := &memory{}
	blue, green, other := Cluster{Namespace: "a", Name: "blue"}, Cluster{Namespace: "a", Name: "green"},
		Cluster{Namespace: "b", Name: "blue"}
	all := []Cluster{blue, green, other}
	keys := func(c Cluster) map[revision]KeyPair {
		return map[revision]KeyPair{{resourceVersion: c.Namespace + c.Name}: {Version: 1}}
	}
	want := func(when string, c Cluster, keys map[revision]KeyPair, whole bool) {
		t.Helper()
		known, all := m.get(c)
		if all != whole || len(known) != len(keys) {
			t.Errorf("%s: of %v is known %v, all of it: %t", when, c, known, all)
		}
		for r := range keys {
			if known[r].Version != 1 {
				t.Errorf("%s: of %v is known %v, want %v", when, c, known, keys)
			}
		}
	}
	for _, c := range all {
		want("at first", c, nil, false)
		m.set(c, keys(c))
	}
	for _, c := range all {
		want("set", c, keys(c), true)
	}
	m.doubt(blue)
	m.doubt(green)
	want("doubted", blue, keys(blue), false)
	want("doubted", green, keys(green), false)
	want("not doubted", other, keys(other), true)
	m.set(blue, keys(blue))
	want("set again", blue, keys(blue), true)
	want("still doubted", green, keys(green), false)
	m.set(other, nil)
	want("forgotten", other, nil, false)
	want("not forgotten", blue, keys(blue), true)
	if len(m.of) != 2 || len(m.doubted) != 1 {
		t.Errorf("%d clusters are known and %d doubted, want 2 and 1", len(m.of), len(m.doubted))
	}
}
