package agent_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinks keeps the program small and without a client: it links no types of the Kubernetes API and nothing of
// clusters that run on one host.
func TestLinks(t *testing.T) {
	const program = "github.com/keyturn/keyturn/cmd/keyturn-agent"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, name := range deps {
		for _, bad := range []string{"k8s.io/client-go", "k8s.io/api/", "k8s.io/apimachinery", "keyturn/internal/local"} {
			if strings.Contains(name, bad) {
				t.Errorf("keyturn-agent links %s", name)
			}
		}
	}
	if deps[len(deps)-1] != program {
		t.Errorf("the last of %d packages is %s", len(deps), deps[len(deps)-1])
	}
}
