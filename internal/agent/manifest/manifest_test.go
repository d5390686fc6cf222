package manifest_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/internal/agent/manifest"
)

var update = flag.Bool("update", false, "write the golden files")

// kubeadmKeys are the paths that kubeadm writes.
var kubeadmKeys = manifest.Keys{
	Public: "/etc/kubernetes/pki/sa.pub", Private: "/etc/kubernetes/pki/sa.key",
	Socket: "/var/lib/keyturn/signer/socket", MaxExpiration: 365 * 24 * time.Hour,
}

var kubesprayKeys = manifest.Keys{
	Public: "/etc/kubernetes/ssl/sa.pub", Private: "/etc/kubernetes/ssl/sa.key",
	Socket: kubeadmKeys.Socket, MaxExpiration: kubeadmKeys.MaxExpiration,
}

// manifests are the files of testdata. Those of kubeadm are its output, and that of kubespray is kubeadm's with the
// configuration that kubespray writes.
var manifests = []struct {
	name     string
	keys     manifest.Keys
	rootless bool
}{
	{name: "kubeadm-1.34", keys: kubeadmKeys},
	{name: "kubeadm-1.34-args", keys: kubeadmKeys},
	{name: "kubeadm-1.35", keys: kubeadmKeys},
	{name: "kubeadm-1.36", keys: kubeadmKeys},
	{name: "kubeadm-1.36-args", keys: kubeadmKeys},
	{name: "kubeadm-1.36-rootless", keys: kubeadmKeys, rootless: true},
	{name: "kubespray", keys: kubesprayKeys},
	{name: "by-hand", keys: kubeadmKeys},
}

func read(t testing.TB, name string) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse(file(t, name+".yaml"))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(file(t, name)), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func with(t *testing.T, m *manifest.Manifest, w manifest.Want, k manifest.Keys) *manifest.Manifest {
	t.Helper()
	next, err := m.With(w, k)
	if err != nil {
		t.Fatal(err)
	}
	again, err := next.With(w, k)
	if err != nil || !bytes.Equal(again.Text(), next.Text()) {
		t.Errorf("a second time it is not the same: %v", err)
	}
	return next
}

// TestFiles restarts an API server that keeps its files, twice.
func TestFiles(t *testing.T) {
	for _, c := range manifests {
		t.Run(c.name, func(t *testing.T) {
			m := read(t, c.name)
			first := with(t, m, manifest.Want{Restart: "aaaa-1", RetryAfter: true}, c.keys)
			golden(t, c.name+".files.golden", first.Text())
			second := with(t, first, manifest.Want{Restart: "bbbb-2"}, c.keys)
			back, err := second.RemoveAnnotation(manifest.RestartAnnotation)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(m.Text()), string(back.Text())); diff != "" {
				t.Errorf("not the first bytes again:\n%s", diff)
			}
		})
	}
}

// TestExternal converts an API server to a signer, and back.
func TestExternal(t *testing.T) {
	for _, c := range manifests {
		t.Run(c.name, func(t *testing.T) {
			m := read(t, c.name)
			if c.rootless {
				_, err := m.With(manifest.Want{Restart: "aaaa-1", External: true}, c.keys)
				wantError(t, err, "does not run as root")
				return
			}
			external := with(t, m, manifest.Want{Restart: "aaaa-1", External: true, RetryAfter: true}, c.keys)
			golden(t, c.name+".external.golden", external.Text())
			files := with(t, external, manifest.Want{Restart: "bbbb-2"}, c.keys)
			back, err := files.RemoveAnnotation(manifest.RestartAnnotation)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(m.Text()), string(back.Text())); diff != "" {
				t.Errorf("not the first bytes again:\n%s", diff)
			}
		})
	}
}

func TestFacts(t *testing.T) {
	m := read(t, "kubeadm-1.36-args")
	if got := m.Flag("service-account-issuer"); len(got) != 2 || got[0] != "https://issuer.example.com" {
		t.Errorf("issuers %q", got)
	}
	if got := m.Flag("oidc-groups-prefix"); len(got) != 1 || got[0] != "#groups: " {
		t.Errorf("a quoted flag is %q", got)
	}
	if p, ok := m.Readiness(); !ok || p != (manifest.Probe{Host: "fd00::10", Port: 6443, Path: "/readyz"}) {
		t.Errorf("readiness %+v, %v", p, ok)
	}
	if got := m.HostPaths(); len(got) != 6 || got[0] != (manifest.HostPath{
		Name: "audit", Path: "/etc/kubernetes/audit", MountPath: "/etc/kubernetes/audit", ReadOnly: true,
	}) {
		t.Errorf("host paths %+v", got)
	}
	byHand := read(t, "by-hand")
	if got := byHand.Flag("secure-port"); len(got) != 1 || got[0] != "6443" {
		t.Errorf("the value of a flag of two arguments is %q", got)
	}
	if p, ok := byHand.Readiness(); !ok || p != (manifest.Probe{Host: "127.0.0.1", Port: 6443, Path: "/readyz"}) {
		t.Errorf("readiness %+v, %v", p, ok)
	}
	if !m.Root() || read(t, "kubeadm-1.36-rootless").Root() {
		t.Error("other facts are wrong")
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

// TestRefused changes one thing of a manifest of kubeadm, and wants an error that names the line.
func TestRefused(t *testing.T) {
	const sign = "    - --service-account-signing-key-file=/etc/kubernetes/pki/sa.key\n"
	const public = "    - --service-account-key-file=/etc/kubernetes/pki/sa.pub\n"
	const mounts = "    volumeMounts:\n"
	for _, c := range []struct{ name, old, new, want string }{
		{"carriage returns", "tier: control-plane\n", "tier: control-plane\r\n", "line 8: it has a carriage return"},
		{"two documents", "status: {}\n", "---\na: b\n", "line 124: a second document begins"},
		{"another kind", "kind: Pod", "kind: Job", "not a Pod"},
		{"a key twice", "  name: kube-apiserver\n  namespace", "  name: kube-apiserver\n  name: x\n  namespace", "name"},
		{
			"a shell", "    - kube-apiserver\n", "    - sh\n    - -c\n    - kube-apiserver\n",
			"does not begin with kube-apiserver",
		},
		{
			"no container", "    name: kube-apiserver\n    ports", "    name: apiserver\n    ports",
			"no container kube-apiserver",
		},
		{"a flow list", "  - command:\n", "  - args: [--v=2]\n    command:\n", ""},
		{"annotations in flow style", "annotations:\n    kubeadm", "annotations: {a.b/c: d}\n  x:\n    kubeadm",
			"line 4: annotations is not a list or map"},
		{
			"empty annotations", "annotations:\n    kubeadm", "annotations: {}\n  x:\n    kubeadm", "line 4: annotations is not",
		},
		{"a comment behind a flag", public, strings.TrimSuffix(public, "\n") + " # old\n", "line 37: a comment follows"},
		{"a flag on a line of its own", sign, "    -\n      --service-account-signing-key-file=/etc/kubernetes/pki/sa.key\n",
			"line 39: the entry of the list does not follow a dash"},
		{"an escaped flag", sign, "    - \"\\x2d-service-account-signing-key-file=/etc/kubernetes/pki/sa.key\"\n",
			"line 38: the text is not written as one plain or quoted word"},
		{"a folded flag", sign, "    - >-\n      --service-account-signing-key-file=/etc/kubernetes/pki/sa.key\n",
			"line 38: the text is not written"},
		{
			"an anchored flag", sign, "    - &key --service-account-signing-key-file=/etc/kubernetes/pki/sa.key\n",
			"line 38: the text",
		},
		{"two arguments", sign, "    - --service-account-signing-key-file\n    - /etc/kubernetes/pki/sa.key\n",
			"line 38: --service-account-signing-key-file and its value are two arguments"},
		{"a second key file", public, public + "    - --service-account-key-file=/etc/kubernetes/pki/old.pub\n", "old.pub"},
		{"another key file", public, strings.Replace(public, "sa.pub", "jwt.pub", 1), "jwt.pub"},
		{"a signer of somebody else", public, "    - --service-account-signing-endpoint=/run/kms.sock\n", "not Keyturn's"},
		{"longer tokens", public, public + "    - --service-account-max-token-expiration=9000h\n", "for at most 8760h"},
		{"users of its own", "hostNetwork: true", "hostUsers: false", "does not run as root"},
		{"no volumes in block style", mounts, "    volumeMounts: []\n    x:\n", "line 80: volumeMounts is not a list or map"},
		{
			"a volume of that name", "  volumes:\n", "  volumes:\n  - name: keyturn-signer\n    emptyDir: {}\n", "has that name",
		},
		{"a mount at that path", mounts, mounts + "    - mountPath: /var/lib/keyturn/signer\n      name: ca-certs\n",
			"volume ca-certs is mounted at"},
		{"a list that is an alias", mounts,
			"    x: &x\n    - {name: ca-certs, mountPath: /x}\n    volumeMounts: *x\n    y:\n",
			"volumeMounts is not"},
		{"an anchored list used twice", mounts,
			"    volumeMounts: &all\n    - {name: ca-certs, mountPath: /x}\n    x: *all\n    y:\n",
			"the edit would change something else too"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(file(t, "kubeadm-1.36.yaml")), c.old, c.new, 1)
			if !strings.Contains(string(file(t, "kubeadm-1.36.yaml")), c.old) {
				t.Fatal("the manifest has no such text")
			}
			m, err := manifest.Parse([]byte(text))
			if err == nil {
				_, err = m.With(manifest.Want{Restart: "aaaa-1", External: true}, kubeadmKeys)
			}
			if c.want == "" && err != nil {
				t.Error(err)
			}
			if c.want != "" {
				wantError(t, err, c.want)
			}
		})
	}
}

// TestEditedByOthers converts back what somebody edited meanwhile.
func TestEditedByOthers(t *testing.T) {
	m := with(t, read(t, "kubeadm-1.36"), manifest.Want{Restart: "aaaa-1", External: true}, kubeadmKeys)
	text := strings.Replace(string(m.Text()), "      name: keyturn-signer\n      readOnly: true\n",
		"      name: keyturn-signer\n      readOnly: false\n", 1)
	edited, err := manifest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	_, err = edited.With(manifest.Want{Restart: "bbbb-2"}, kubeadmKeys)
	wantError(t, err, "the entry was changed by somebody else")
}

// A flag that its owner added is not taken out.
func TestRetryAfterOfItsOwner(t *testing.T) {
	text := strings.Replace(string(file(t, "kubeadm-1.36.yaml")), "    - --secure-port",
		"    - --shutdown-send-retry-after=true\n    - --secure-port", 1)
	m, err := manifest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	m = with(t, m, manifest.Want{Restart: "aaaa-1", RetryAfter: true}, kubeadmKeys)
	m = with(t, m, manifest.Want{Restart: "bbbb-2"}, kubeadmKeys)
	if got := m.Flag("shutdown-send-retry-after"); len(got) != 1 {
		t.Errorf("the flag is there %d times", len(got))
	}
}
