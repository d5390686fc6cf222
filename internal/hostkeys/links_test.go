package hostkeys_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinks keeps the package small enough for an agent on somebody else's machines: no client of the Kubernetes API,
// and nothing of the clusters that run on one host.
func TestLinks(t *testing.T) {
	const self = "github.com/keyturn/keyturn/internal/hostkeys"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", self).Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, name := range deps {
		if strings.Contains(name, "k8s.io/") || strings.Contains(name, "keyturn/internal/local") {
			t.Errorf("hostkeys links %s", name)
		}
	}
	if deps[len(deps)-1] != self {
		t.Errorf("the last of %d packages is %s", len(deps), deps[len(deps)-1])
	}
}
