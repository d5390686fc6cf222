package machine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/local/machine/guest"
	"github.com/keyturn/keyturn/internal/local/network"
)

func testSpec() Spec {
	return Spec{
		Name: "blue-a", Pool: "blue", KeyVersion: 3, Slot: 4,
		Labels:   map[string]string{"example.com/color": "blue"},
		Taints:   []corev1.Taint{{Key: "example.com/color", Value: "blue", Effect: corev1.TaintEffectNoSchedule}},
		PodRange: netip.MustParsePrefix("10.244.4.0/24"), PodCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		Group: "kt10-88-1-4",
		Port: network.Port{
			Link: "kt0a580168", Bridge: "kt10-88-1",
			Address: netip.MustParsePrefix("10.88.1.104/24"), Gateway: netip.MustParseAddr("10.88.1.1"),
		},
	}
}

// testSet has a machine's programs where nothing looks into them.
func testSet(t *testing.T) Set {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pause.tar"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return Set{Dir: filepath.Join(dir, "machines"), Programs: Programs{
		Init: "/bin/true", Images: dir, Version: "v1.36.4",
		Find: func(version, name string) (string, error) { return "/bin/" + version + "/" + name, nil },
	}}
}

func TestSpecIsRemembered(t *testing.T) {
	s, spec := testSet(t), testSpec()
	if err := s.writeSpec(spec); err != nil {
		t.Fatal(err)
	}
	states, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	want := []State{{Spec: spec}}
	if diff := cmp.Diff(want, states, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if st, err := os.Stat(s.path("blue-a", "machine.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of machine.json: %v, %v", st, err)
	}
}

// Machines of earlier versions had one name for their control group and for the network namespace in /run/netns.
func TestMachineOfAnEarlierVersion(t *testing.T) {
	s := testSet(t)
	old := `{"name": "blue-a", "pool": "blue", "port": {"namespace": "kt10-88-1-4", "link": "kt0a580168"}}`
	if err := os.MkdirAll(s.path("blue-a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("blue-a", "machine.json"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	state, _, err := s.Look("blue-a")
	if err != nil || state.Spec.Group != "kt10-88-1-4" || state.Spec.Port.Namespace != "kt10-88-1-4" {
		t.Errorf("it is %+v, %v", state.Spec, err)
	}
}

// A crash between making the directory and remembering the machine leaves an empty one, which Remove takes away.
func TestHalfMadeMachine(t *testing.T) {
	s := testSet(t)
	if states, err := s.List(); err != nil || len(states) != 0 {
		t.Errorf("of no directory: %v, %v", states, err)
	}
	if err := os.MkdirAll(s.path("blue-a"), 0o700); err != nil {
		t.Fatal(err)
	}
	states, err := s.List()
	if err != nil || len(states) != 1 || states[0].Spec.Name != "blue-a" || states[0].Running {
		t.Fatalf("listed are %+v, %v", states, err)
	}
	for range 2 {
		if gone, err := s.Remove(t.Context(), "blue-a"); !gone || err != nil {
			t.Errorf("removing it: %t, %v", gone, err)
		}
	}
	if states, err := s.List(); err != nil || len(states) != 0 {
		t.Errorf("left are %+v, %v", states, err)
	}
}

func TestFiles(t *testing.T) {
	if _, err := cniPlugins(); err != nil {
		t.Fatal(err)
	}
	s, spec := testSet(t), testSpec()
	access := Access{Server: "https://10.88.1.10:6443", CA: []byte("CA"), Token: "abcdef.secret"}
	if err := s.writeFiles(spec, Access{}, false); err == nil || !strings.Contains(err.Error(), "bootstrap token") {
		t.Errorf("without a token: %v", err)
	}
	if err := s.writeFiles(spec, access, false); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(s.path("blue-a", "var", bootstrapPath)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the bootstrap kubeconfig: %v, %v", st, err)
	}
	if found := filesWith(t, s.path("blue-a"), access.Token); len(found) != 1 {
		t.Errorf("the token is in %v", found)
	}
	// A machine that has joined needs no token to start again.
	access.Token = ""
	if err := s.writeFiles(spec, access, true); err != nil {
		t.Error(err)
	}
}

func filesWith(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), text) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestTidyKeepsTheTokenUntilTheMachineJoined(t *testing.T) {
	s, spec := testSet(t), testSpec()
	if err := s.writeSpec(spec); err != nil {
		t.Fatal(err)
	}
	if err := s.writeFiles(spec, Access{Token: "abcdef.secret"}, false); err != nil {
		t.Fatal(err)
	}
	token := s.path("blue-a", "var", bootstrapPath)
	if err := s.Tidy("blue-a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(token); err != nil {
		t.Errorf("before it joined: %v", err)
	}
	certificate := s.path("blue-a", "var", certificatePath)
	if err := os.MkdirAll(filepath.Dir(certificate), 0o755); err != nil {
		t.Fatal(err)
	}
	// As the kubelet does: a link to a path that only the machine knows.
	if err := os.Symlink("/var/lib/kubelet/pki/nowhere.pem", certificate); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Tidy("blue-a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(token); !os.IsNotExist(err) {
		t.Errorf("after it joined: %v", err)
	}
}

func TestGuestConfig(t *testing.T) {
	raw, err := testSet(t).guestConfig(testSpec())
	if err != nil {
		t.Fatal(err)
	}
	var config guest.Config
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range config.Services {
		names = append(names, s.Name)
	}
	if got, want := strings.Join(names, " "), "containerd masquerade image-pause kubelet kube-proxy coredns"; got != want {
		t.Errorf("services are %s, want %s", got, want)
	}
	labels := "--node-labels=example.com/color=blue,keyturn.dev/ksa-signing-key-version=3,keyturn.dev/node-pool=blue"
	if args := config.Services[3].Args; args[len(args)-1] != labels {
		t.Errorf("the kubelet's last argument is %s, want %s", args[len(args)-1], labels)
	}
	if after := strings.Join(config.Services[3].After, " "); !strings.Contains(after, guest.Done("image-pause")) {
		t.Errorf("the kubelet starts after %s, not after its images", after)
	}
}

// What runs in a machine may put links where the host, as root, writes and removes files.
func TestLinksInAMachineLeadNowhere(t *testing.T) {
	for _, link := range []string{
		"var/lib/kubelet", "var/lib", "var/lib/kubelet/bootstrap.conf", "etc", "etc/hostname", "etc/kubernetes",
	} {
		s, spec := testSet(t), testSpec()
		access := Access{Token: "abcdef.secret"}
		if err := errors.Join(s.writeSpec(spec), s.writeFiles(spec, access, false)); err != nil {
			t.Fatal(err)
		}
		host := t.TempDir()
		kept := filepath.Join(host, "bootstrap.conf")
		if err := os.WriteFile(kept, []byte("the host's"), 0o644); err != nil {
			t.Fatal(err)
		}
		target := host
		if filepath.Ext(link) != "" || filepath.Base(link) == "hostname" {
			target = kept
		}
		path := s.path(spec.Name, link)
		if err := errors.Join(os.RemoveAll(path), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
		_ = s.writeFiles(spec, access, false) // may fail: the machine has spoiled its own disk
		_ = s.Tidy(spec.Name)
		raw, err := os.ReadFile(kept)
		if found, _ := os.ReadDir(host); err != nil || string(raw) != "the host's" || len(found) != 1 {
			t.Errorf("%s as a link: the file of the host is %q, %v, and beside it are %v", link, raw, err, found)
		}
	}
}

func TestMayRegisterWith(t *testing.T) {
	for label, want := range map[string]bool{
		"color":                            true,
		"example.com/color":                true,
		"notkubernetes.io/color":           true,
		"node.kubernetes.io/instance-type": true,
		"x.node.kubernetes.io/y":           true,
		"topology.kubernetes.io/zone":      true,
		"kubernetes.io/color":              false,
		"node-role.kubernetes.io/worker":   false,
		"x.k8s.io/y":                       false,
	} {
		if got := MayRegisterWith(label); got != want {
			t.Errorf("MayRegisterWith(%s) = %t", label, got)
		}
	}
}
