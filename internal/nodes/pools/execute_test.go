package pools

import (
	"strings"
	"testing"
)

func TestNewName(t *testing.T) {
	long := strings.Repeat("a", 40)
	none := func(string) bool { return false }
	if name := newName(long, long, none); len(name) > 63 {
		t.Errorf("%s has %d bytes: too long for a host name label", name, len(name))
	}
	seen := map[string]bool{}
	for range 200 {
		name := newName("c", "p", func(n string) bool { return seen[n] })
		if seen[name] || !strings.HasPrefix(name, "c-p-") || len(name) != len("c-p-")+5 {
			t.Fatalf("name %s", name)
		}
		seen[name] = true
	}
}
