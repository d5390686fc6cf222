package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// await tries again until f succeeds: what controllers have to come to takes minutes on a busy machine.
func (p *place) await(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, createTimeout, true,
		func(ctx context.Context) (bool, error) {
			last = f(ctx)
			return last == nil, nil
		})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

// pageBlock returns the commands of a page of docs/operations whose first line begins with a text.
func pageBlock(t *testing.T, page, begins string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../docs/operations", page))
	if err != nil {
		t.Fatal(err)
	}
	var block []string
	indent := ""
	for line := range strings.Lines(string(data)) {
		text := strings.TrimLeft(line, " ")
		if block == nil && strings.HasPrefix(text, begins) {
			indent = line[:len(line)-len(text)]
		}
		within := len(indent) >= 4 && strings.HasPrefix(line, indent)
		if within {
			block = append(block, strings.TrimPrefix(line, indent))
		} else if block != nil {
			break
		}
	}
	if block == nil {
		t.Fatalf("%s has no commands that begin with %q", page, begins)
	}
	return strings.Join(block, "")
}

// inCapitals matches the words of a page that stand for something else.
var inCapitals = regexp.MustCompile(`\b[A-Z][A-Z_0-9]*\b`)

// shell runs commands of a page, with values for its words in capitals, and returns what they print.
func (p *place) shell(t *testing.T, values map[string]string, commands ...string) string {
	t.Helper()
	script := inCapitals.ReplaceAllStringFunc(strings.Join(commands, "\n"), func(word string) string {
		if value, ok := values[word]; ok {
			return value
		}
		return word
	})
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail\nshopt -s expand_aliases\n"+script)
	cmd.Dir = p.dir
	path := []string{p.bin, filepath.Join(p.bin, "kube", kubernetesVersion()), os.Getenv("PATH")}
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(path, ":"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}
