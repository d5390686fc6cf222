package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// bareVariable is set in a process that finds no certificate authorities on its system.
const bareVariable = "KEYTURN_TEST_BARE"

// TestRootsInBareImage runs itself where the system has no certificate authorities, as an image with nothing but the
// program: clouds must still be verified.
func TestRootsInBareImage(t *testing.T) {
	if os.Getenv(bareVariable) != "" {
		if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
			t.Errorf("no certificate authorities: %v", err)
		}
		return
	}
	none := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRootsInBareImage$")
	cmd.Env = append(os.Environ(), bareVariable+"=1", "SSL_CERT_FILE="+none+"/none", "SSL_CERT_DIR="+none)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
