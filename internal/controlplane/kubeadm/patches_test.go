package kubeadm

import (
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent/manifest"
)

// TestPatchOf makes the patch from a mirror pod.
func TestPatchOf(t *testing.T) {
	o := world()
	patch, err := patchOf(o.of(apiServer)[0], v1alpha1.DefaultCertificatesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"/spec/containers/0/command/4"`, `"--service-account-key-file=/etc/kubernetes/pki/sa.pub"`,
		`"--service-account-signing-endpoint=/var/lib/keyturn/signer/socket"`, `"/spec/volumes/-"`,
	} {
		if !strings.Contains(string(patch), want) {
			t.Errorf("the patch lacks %s:\n%s", want, patch)
		}
	}
	if manifest.PatchFile != "kube-apiserver8keyturn+json.json" {
		t.Errorf("kubeadm does not take a file of the name %s", manifest.PatchFile)
	}
	o.replace(apiServer, "sa.pub", "other.pub")
	if _, err := patchOf(o.of(apiServer)[0], v1alpha1.DefaultCertificatesDir); err == nil {
		t.Error("an API server with a key file of another name gets a patch")
	}
}
