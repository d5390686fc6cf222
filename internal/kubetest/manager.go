package kubetest

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
)

// StartControllers runs controllers of the real kube-controller-manager until the test ends, with the permissions of
// config.
func StartControllers(t *testing.T, config *rest.Config, controllers string) {
	t.Helper()
	dir, err := BinDir()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "kube-controller-manager"),
		"--kubeconfig", WriteKubeconfig(t, config), "--controllers="+controllers, "--leader-elect=false", "--secure-port=0")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("kube-controller-manager:\n%s", &log)
		}
	})
}
