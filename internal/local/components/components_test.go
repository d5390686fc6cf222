package components

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
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/process"
)

func testLayout(replicas int) Layout {
	return Layout{
		Site: datadir.Site{
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

// TestCommandLines compares with testdata; KEYTURN_UPDATE_GOLDEN=1 writes the files again.
func TestCommandLines(t *testing.T) {
	ha, single := testLayout(3), testLayout(1)
	admin := testLayout(1)
	admin.Site = datadir.Site{Name: "admin", Dir: "/data/admin", Network: ha.Network, Loopback: true}
	admin.Encrypted = true
	rotating := controlplane.Keys{Verify: []int{1, 2}, Sign: 1}
	golden(t, "etcd", render(ha.EtcdProcess("/kube/etcd")))
	golden(t, "apiserver-1-rotating", render(ha.APIServerProcess("/kube/kube-apiserver", 1, rotating)))
	golden(t, "apiserver-1-external",
		render(ha.APIServerProcess("/kube/kube-apiserver", 1, controlplane.Keys{Verify: []int{1}, Sign: 1, External: true})))
	golden(t, "signer-1", render(ha.SignerProcess("/keyturn/keyturn-signer", 1)))
	issuer := testLayout(1)
	issuer.Issuer = "https://oidc.example.com/alpha"
	golden(t, "apiserver-issuer",
		render(issuer.APIServerProcess("/kube/kube-apiserver", 0, controlplane.Keys{Verify: []int{1}, Sign: 1})))
	golden(t, "apiserver-admin",
		render(admin.APIServerProcess("/kube/kube-apiserver", 0, controlplane.Keys{Verify: []int{1}, Sign: 1})))
	golden(t, "controller-manager-1", render(ha.ControllerManagerProcess("/kube/kube-controller-manager", 1, 2)))
	golden(t, "controller-manager-single", render(single.ControllerManagerProcess("/kube/kube-controller-manager", 0, 2)))
	golden(t, "scheduler-1", render(ha.SchedulerProcess("/kube/kube-scheduler", 1)))
	golden(t, "haproxy", render(ha.HAProxyProcess("/usr/sbin/haproxy"))+"\n"+ha.HAProxyConfig())
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
	path := filepath.Join("testdata", name+".txt")
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
