package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/local/machine/guest"
)

// bootingSpec is a machine of kubeadm with user data.
func bootingSpec() Spec {
	spec := testSpec()
	spec.Kubeadm, spec.UserData, spec.ProviderID = true, true, "keyturn://a/blue-a"
	return spec
}

func TestUserDataStaysInOneFile(t *testing.T) {
	s, spec := testSet(t), bootingSpec()
	if err := s.writeFiles(spec, Access{UserData: []byte("#cloud-config with SECRET")}, false); err != nil {
		t.Fatal(err)
	}
	path := s.path("blue-a", guest.UserDataPath)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the user data: %v, %v", st, err)
	}
	if found := filesWith(t, s.path("blue-a"), "SECRET"); !slices.Equal(found, []string{path}) {
		t.Errorf("the user data is in %v", found)
	}
	// A machine that starts again keeps it.
	if err := s.writeFiles(spec, Access{}, false); err != nil {
		t.Fatal(err)
	}
	if found := filesWith(t, s.path("blue-a"), "SECRET"); len(found) != 1 {
		t.Errorf("after another start, the user data is in %v", found)
	}
}

func TestFirstBoot(t *testing.T) {
	s, spec := testSet(t), bootingSpec()
	if err := s.writeFiles(spec, Access{UserData: []byte("#cloud-config")}, false); err != nil {
		t.Fatal(err)
	}
	if _, ended, err := s.FirstBoot("blue-a"); ended || err != nil {
		t.Errorf("before it began: %t, %v", ended, err)
	}
	path := s.path("blue-a", guest.FirstBootPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]guest.FirstBoot{`{}`: {}, `{"error":"no"}`: {Error: "no"}} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ended, err := s.FirstBoot("blue-a"); got != want || !ended || err != nil {
			t.Errorf("of %s: %+v, %t, %v", text, got, ended, err)
		}
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.FirstBoot("blue-a"); err == nil || !strings.Contains(err.Error(), "machine blue-a") {
		t.Errorf("of half a file: %v", err)
	}
}

// The machine carries out user data after its images are there, and tells its kubelet what kubeadm does not know.
func TestBootingMachine(t *testing.T) {
	s, spec := testSet(t), bootingSpec()
	files, err := s.etc(spec, Access{})
	if err != nil {
		t.Fatal(err)
	}
	var config guest.Config
	if err := json.Unmarshal(files["keyturn/guest.json"], &config); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(config.Services, func(s guest.Service) bool { return s.Name == "first-boot" })
	if i < 0 {
		t.Fatalf("no service carries out the user data: %+v", config.Services)
	}
	for _, path := range []string{guest.UserDataPath, guest.Done("image-pause")} {
		if !slices.Contains(config.Services[i].After, path) {
			t.Errorf("the user data is carried out after %v, not after %s", config.Services[i].After, path)
		}
	}
	var kubelet map[string]any
	if err := json.Unmarshal(files["keyturn/kubelet.d/50-machine.conf"], &kubelet); err != nil {
		t.Fatal(err)
	}
	if kubelet["providerID"] != spec.ProviderID || kubelet["failCgroupV1"] != false {
		t.Errorf("the kubelet's drop-in file is %v", kubelet)
	}
}
