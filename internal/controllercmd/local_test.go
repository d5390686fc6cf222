package controllercmd

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/remote"
)

// TestControllerNeedsNothingOfItsHost keeps packages that run local clusters out of the program.
func TestControllerNeedsNothingOfItsHost(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../cmd/keyturn-controller").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		found = found || pkg == "github.com/keyturn/keyturn/internal/controllercmd"
		for _, host := range []string{
			"github.com/keyturn/keyturn/internal/local", "github.com/google/go-containerregistry",
			"github.com/vishvananda/netlink", "github.com/vishvananda/netns",
		} {
			if pkg == host || strings.HasPrefix(pkg, host+"/") {
				t.Errorf("keyturn-controller is linked with %s", pkg)
			}
		}
	}
	if !found {
		t.Errorf("not the dependencies of keyturn-controller:\n%s", out)
	}
}

func TestLocalClusterWithoutLocal(t *testing.T) {
	local, err := (&localFlags{}).infrastructure()
	if err != nil {
		t.Fatal(err)
	}
	on := infrastructures{"local": local}
	uc := &v1alpha1.UserCluster{}
	uc.Spec.Infrastructure.Local = &v1alpha1.LocalInfrastructure{}
	_, errPlane := on.controlPlane(uc)
	_, errMachines := on.nodes(uc)
	_, errNodes := nodesOf(on, nil, nil)(uc)
	for what, err := range map[string]error{"control plane": errPlane, "machines": errMachines, "nodes": errNodes} {
		if !errors.Is(err, errNoLocal) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCredentialsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	f := &localFlags{endpoint: "https://127.0.0.1:1", credentials: dir}
	path := remote.CredentialsIn(dir).Cert
	if _, err := f.infrastructure(); err == nil || !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Errorf("got %v", err)
	}
}
