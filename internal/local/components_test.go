package local

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/local/process"
)

func testLayout(replicas int) layout {
	return layout{
		Site: Site{
			Name: "keyturn-system.alpha", Index: 7, Dir: "/data/clusters/keyturn-system.alpha",
			Network: netip.MustParsePrefix("10.88.0.0/16"),
		},
		Version:     "v1.36.4",
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/20"),
		PodCIDR:     netip.MustParsePrefix("192.168.0.0/16"),
		Replicas:    replicas,
		Issuer:      v1alpha1.DefaultIssuer,
	}
}

// TestCommandLines compares with testdata/components; KEYTURN_UPDATE_GOLDEN=1 writes the files anew.
func TestCommandLines(t *testing.T) {
	ha, single := testLayout(3), testLayout(1)
	admin := testLayout(1)
	admin.Site = Site{Name: "admin", Dir: "/data/admin", Network: ha.Network, Loopback: true}
	admin.Encrypted = true
	rotating := controlplane.Keys{Verify: []int{1, 2}, Sign: 1}
	golden(t, "etcd", render(ha.etcd("/kube/etcd")))
	golden(t, "apiserver-1-rotating", render(ha.apiServer("/kube/kube-apiserver", 1, rotating)))
	golden(t, "apiserver-1-external", render(ha.apiServer("/kube/kube-apiserver", 1, controlplane.Keys{Verify: []int{1}, Sign: 1, External: true})))
	golden(t, "signer-1", render(ha.signer("/keyturn/keyturn-signer", 1)))
	issuer := testLayout(1)
	issuer.Issuer = "https://oidc.example.com/alpha"
	golden(t, "apiserver-issuer", render(issuer.apiServer("/kube/kube-apiserver", 0, controlplane.Keys{Verify: []int{1}, Sign: 1})))
	golden(t, "apiserver-admin", render(admin.apiServer("/kube/kube-apiserver", 0, controlplane.Keys{Verify: []int{1}, Sign: 1})))
	golden(t, "controller-manager-1", render(ha.controllerManager("/kube/kube-controller-manager", 1, 2)))
	golden(t, "controller-manager-single", render(single.controllerManager("/kube/kube-controller-manager", 0, 2)))
	golden(t, "scheduler-1", render(ha.scheduler("/kube/kube-scheduler", 1)))
	golden(t, "haproxy", render(ha.haproxy("/usr/sbin/haproxy"))+"\n"+ha.haproxyConfig())
}

func render(s process.Spec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name  %s\nhost  %s\nstamp %s\ndir   %s\nenv   %s\n\n%s\n",
		s.Name, s.Hostname, s.Stamp, s.Dir, strings.Join(s.Env, " "), s.Path)
	for _, a := range s.Args {
		fmt.Fprintf(&b, "  %s\n", a)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "components", name+".txt")
	if os.Getenv("KEYTURN_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

func TestStampOfKeys(t *testing.T) {
	keys := controlplane.Keys{Verify: []int{1, 2}, Sign: 2}
	if got, err := keysOfStamp(stampKeys(keys)); err != nil || !got.Equal(keys) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := keysOfStamp(""); err != nil || !got.Equal(controlplane.Keys{}) {
		t.Errorf("of no process: %v, %v", got, err)
	}
	if _, err := keysOfStamp("x"); err == nil {
		t.Error("no error for a stamp that is none")
	}
}

func TestParseServerStates(t *testing.T) {
	const out = `1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight
3 apiservers 1 apiserver-0 10.88.1.11 2 0 1 1 36 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0
3 apiservers 2 apiserver-1 10.88.1.12 2 8 1 1 36 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0
3 apiservers 3 apiserver-2 10.88.1.13 0 0 1 1 36 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0
`
	got, err := parseServerStates(out)
	want := map[string]bool{"apiserver-0": true, "apiserver-1": false, "apiserver-2": false}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestFailedChecks(t *testing.T) {
	for body, want := range map[string]string{
		"ok": "",
		"[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n": "etcd",
		"[-]a failed\n[-]b failed\n[-]c failed\n[-]d failed\n[-]e failed\n":  "a, b, c and 2 more",
	} {
		if got := failedChecks(body); got != want {
			t.Errorf("%q: got %q", body, got)
		}
	}
}
