package manifest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestPatch makes the same patch of a manifest before and after its conversion.
func TestPatch(t *testing.T) {
	for _, tt := range manifests {
		before := read(t, tt.name)
		patch, err := before.Patch(tt.keys)
		if tt.rootless {
			if err == nil {
				t.Errorf("%s: a kube-apiserver that is not root gets a signer", tt.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		after, err := before.With(manifest.Want{Restart: "a-1", External: true, RetryAfter: true}, tt.keys)
		if err != nil {
			t.Fatal(err)
		}
		again, err := after.Patch(tt.keys)
		if err != nil || string(again) != string(patch) {
			t.Errorf("%s: %v, after its conversion (-before +after):\n%s", tt.name, err, cmp.Diff(string(patch), string(again)))
		}
		var operations []map[string]any
		if err := json.Unmarshal(patch, &operations); err != nil || len(operations) != 6 {
			t.Errorf("%s: %v\n%s", tt.name, err, patch)
		}
	}
}

// TestPatchOfKubeadm has the real kubeadm write manifests with the patch, and refuse to when it fits no more.
func TestPatchOfKubeadm(t *testing.T) {
	bin, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	kubeadm := filepath.Join(bin, "kubeadm")
	if _, err := os.Stat(kubeadm); err != nil {
		t.Skipf("there is no kubeadm: %v", err)
	}
	plain, out, err := generate(t, kubeadm, "", "")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m, err := manifest.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := m.Patch(kubeadmKeys)
	if err != nil {
		t.Fatal(err)
	}
	patches := t.TempDir()
	if err := os.WriteFile(filepath.Join(patches, manifest.PatchFile), patch, 0o600); err != nil {
		t.Fatal(err)
	}
	patched, out, err := generate(t, kubeadm, patches, "")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	converted, err := m.With(manifest.Want{Restart: "a-1", External: true}, kubeadmKeys)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(specOf(t, converted.Text()), specOf(t, patched)); diff != "" {
		t.Errorf("what kubeadm writes (-as the agent +by the patch):\n%s", diff)
	}
	if _, out, err := generate(t, kubeadm, patches, "  - {name: authorization-mode, value: \"Node,RBAC\"}\n"); err == nil {
		t.Errorf("kubeadm applied the patch to other flags:\n%s", out)
	} else if !strings.Contains(out, "test") {
		t.Errorf("kubeadm refuses the patch for another reason: %s", out)
	}
}

// generate has kubeadm write the manifest of kube-apiserver with extra arguments.
func generate(t *testing.T, kubeadm, patches, extraArgs string) (text []byte, output string, err error) {
	t.Helper()
	dir := t.TempDir()
	config := "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nlocalAPIEndpoint: {advertiseAddress: 10.0.0.1}\n" +
		"nodeRegistration: {name: cp-1, criSocket: \"unix:///run/none\"}\n"
	if patches != "" {
		config += "patches: {directory: " + patches + "}\n"
	}
	config += "---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: " + kubetest.Version + "\n"
	if extraArgs != "" {
		config += "apiServer:\n  extraArgs:\n" + extraArgs
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), kubeadm, "init", "phase", "control-plane", "apiserver", "--config", file,
		"--dry-run")
	cmd.Env = append(os.Environ(), "KUBEADM_INIT_DRYRUN_DIR="+dir)
	said, err := cmd.CombinedOutput()
	if err != nil {
		return nil, string(said), err
	}
	text, err = os.ReadFile(filepath.Join(dir, "kube-apiserver.yaml"))
	return text, string(said), err
}

// specOf is what a manifest wants, with its volumes in one order.
func specOf(t *testing.T, text []byte) corev1.PodSpec {
	t.Helper()
	var p corev1.Pod
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(p.Spec.Volumes, func(a, b corev1.Volume) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Spec.Containers[0].VolumeMounts, func(a, b corev1.VolumeMount) int {
		return strings.Compare(a.Name, b.Name)
	})
	return p.Spec
}
