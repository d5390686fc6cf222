package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
)

// testEnv is a world whose output is kept, and whose clock stands still.
func testEnv() (*app, *bytes.Buffer, *bytes.Buffer) {
	var out, err bytes.Buffer
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &app{program: gkectl, Env: Env{
		In: strings.NewReader(""), Out: &out, Err: &err,
		Getenv:     func(string) string { return "" },
		IsTerminal: func(any) bool { return false },
		Now:        func() time.Time { return now },
	}}, &out, &err
}

// Every command says in help what it does, with an example that names the command itself.
func TestHelp(t *testing.T) {
	a, _, _ := testEnv()
	checkHelp(t, a.root(), "gkectl")
	a.program = plugin
	checkHelp(t, a.pluginRoot(), "kubectl keyturn")
}

func checkHelp(t *testing.T, root *cobra.Command, program string) {
	t.Helper()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			walk(child)
		}
		if c.Name() == "help" || c.IsAdditionalHelpTopicCommand() {
			return
		}
		if c.Short == "" || !strings.Contains(c.Example, program) {
			t.Errorf("%s lacks a summary or an example", c.CommandPath())
		}
		if !c.HasSubCommands() && !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("the example of %s is one of something else:\n%s", c.CommandPath(), c.Example)
		}
		if usage := c.UsageString(); !strings.Contains(usage, "Examples:") {
			t.Errorf("the help of %s shows no example", c.CommandPath())
		}
	}
	walk(root)
}

func TestInterrupted(t *testing.T) {
	a, _, stderr := testEnv()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeAdminKubeconfig(config, server); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := Run(ctx, a.Env, []string{"list", "clusters", "--kubeconfig", config}); code != ExitInterrupted {
		t.Errorf("exit code %d, want %d", code, ExitInterrupted)
	}
	if got := stderr.String(); got != "Error: interrupted\n" {
		t.Errorf("standard error = %q", got)
	}
}

func TestConfirmInterrupted(t *testing.T) {
	a, _, _ := testEnv()
	a.IsTerminal = func(any) bool { return true }
	in, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer writer.Close()
	a.In = in
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = a.confirm(ctx, false, "Go on?")
	if got := (&app{program: gkectl}).explain(ctx, err).code; got != ExitInterrupted {
		t.Errorf("confirm = %v with exit code %d, want %d", err, got, ExitInterrupted)
	}
}

func TestDataDir(t *testing.T) {
	tests := []struct {
		given string
		root  bool
		env   map[string]string
		want  string
	}{
		{given: "x", root: true, want: "x"},
		{root: true, env: map[string]string{"XDG_STATE_HOME": "/s"}, want: "/var/lib/keyturn"},
		{env: map[string]string{"XDG_STATE_HOME": "/s", "HOME": "/h"}, want: "/s/keyturn"},
		{env: map[string]string{"XDG_STATE_HOME": "relative", "HOME": "/h"}, want: "/h/.local/state/keyturn"},
		{env: map[string]string{"HOME": "/h"}, want: "/h/.local/state/keyturn"},
		{want: ""},
	}
	for _, tt := range tests {
		got, err := dataDir(tt.given, tt.root, func(name string) string { return tt.env[name] })
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("dataDir(%q, %v, %v) = %q, %v; want %q", tt.given, tt.root, tt.env, got, err, tt.want)
		}
	}
}

func TestRemoveKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if removed, err := removeKubeconfig(path, []byte("a")); !removed || err != nil {
		t.Errorf("of a file that is not there = %v, %v", removed, err)
	}
	if err := os.WriteFile(path, []byte("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if removed, err := removeKubeconfig(path, []byte("a")); removed || err != nil {
		t.Errorf("of another file = %v, %v", removed, err)
	}
	if removed, err := removeKubeconfig(path, []byte("b")); !removed || err != nil {
		t.Errorf("of the file = %v, %v", removed, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// Only a kubeconfig file of the very admin cluster is deleted with it.
func TestSameCluster(t *testing.T) {
	dir := t.TempDir()
	other := rest.CopyConfig(server)
	other.CAData = []byte("another")
	elsewhere := rest.CopyConfig(server)
	elsewhere.Host = "https://127.0.0.1:1"
	for name, config := range map[string]*rest.Config{"a": server, "b": server, "other": other, "elsewhere": elsewhere} {
		if err := writeAdminKubeconfig(filepath.Join(dir, name), config); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"b": true, "other": false, "elsewhere": false, "missing": false} {
		if got := sameCluster(filepath.Join(dir, "a"), filepath.Join(dir, name)); got != want {
			t.Errorf("a and %s reach the same cluster = %v, want %v", name, got, want)
		}
	}
	if sameCluster(filepath.Join(dir, "missing"), filepath.Join(dir, "missing")) {
		t.Error("files that are not there reach the same cluster")
	}
}
