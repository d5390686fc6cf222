package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// containerdConfig leaves out what importing an image does not need.
const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = %q
[ttrpc]
  address = %q
`

// TestContainerdImports has a containerd of its own import an archive, and say what it has.
func TestContainerdImports(t *testing.T) {
	const reference = "localhost/keyturn/hello:1"
	archive := filepath.Join(t.TempDir(), "hello.tar")
	if err := Build(archive, reference, writeProgram(t, t.TempDir(), "hello", "a program"), Config{}); err != nil {
		t.Fatal(err)
	}
	digest, err := unpack(t, archive).Digest()
	if err != nil {
		t.Fatal(err)
	}
	ctr := startContainerd(t)
	ctr("images", "import", "--snapshotter=native", archive) // it also unpacks the layer
	if got := ctr("images", "list"); !strings.Contains(got, reference) || !strings.Contains(got, digest.String()) {
		t.Errorf("containerd has\n%s\nwant %s with digest %s", got, reference, digest)
	}
}

// startContainerd starts containerd until the test ends. It returns its client, which fails the test when it fails.
func startContainerd(t *testing.T) (ctr func(args ...string) string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ktc") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := func(name string) string { return filepath.Join(dir, name) }
	config := fmt.Sprintf(containerdConfig, in("root"), in("state"), in("s"), in("t"))
	if err := os.WriteFile(in("config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(in("log"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("containerd", "--config", in("config.toml"))
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatalf("%v\nhint: hack/packages.sh installs containerd", err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		log.Close()
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("containerd:\n%s", said)
		}
	})
	run := func(args ...string) ([]byte, error) {
		return exec.CommandContext(t.Context(), "ctr", append([]string{"--address", in("s")}, args...)...).CombinedOutput()
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := run("version"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("containerd does not answer")
		}
	}
	return func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}
