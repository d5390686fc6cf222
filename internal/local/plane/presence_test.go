package plane

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/rotation"
)

// presenceTest is a control plane of which nothing runs.
type presenceTest struct {
	*driver
	*Plane
}

// newPresenceTest has everything on disk that a control plane needs to start.
func newPresenceTest(t *testing.T) presenceTest {
	t.Helper()
	d := driverOf(t, emptyHost(t), localtest.UserCluster("alpha", 3))
	p, _ := d.plane("")
	if err := p.ensureFiles(); err != nil {
		t.Fatal(err)
	}
	return presenceTest{d, p}
}

// configure gives the i-th API server its keys.
func (p presenceTest) configure(i int) {
	p.T.Helper()
	keys := hostKeys([]keystore.KeyPair{localtest.Key(p.T, 1), localtest.Key(p.T, 2)})
	if err := p.APIServerKeys(i).Configure(controlplane.Keys{Verify: []int{1, 2}, Sign: 2}, keys); err != nil {
		p.T.Fatal(err)
	}
}

// ran leaves what a process leaves that has run.
func (p presenceTest) ran(name string) {
	p.T.Helper()
	path := p.Path("run", name+".lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.T.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		p.T.Fatal(err)
	}
}

func (p presenceTest) remove(path ...string) {
	p.T.Helper()
	if err := os.Remove(filepath.Join(path...)); err != nil {
		p.T.Fatal(err)
	}
}

func (p presenceTest) wantAbsent() {
	p.T.Helper()
	s, err := p.cp().Observe(p.T.Context())
	if err != nil || s.Presence != rotation.PresenceAbsent || len(s.Servers) > 0 {
		p.T.Errorf("got %+v, %v, want absent", s, err)
	}
}

// wantPresent wants all API servers to be listed.
func (p presenceTest) wantPresent() controlplane.State {
	p.T.Helper()
	s, err := p.cp().Observe(p.T.Context())
	if err != nil || s.Presence != rotation.PresencePresent || len(s.Servers) != p.Replicas {
		p.T.Fatalf("got %+v, %v, want %d API servers", s, err, p.Replicas)
	}
	return s
}

// wantError wants Observe and Converge to fail with an error that holds a name, and nothing else to be reported.
func (p presenceTest) wantError(name string) {
	p.T.Helper()
	s, observed := p.cp().Observe(p.T.Context())
	target := controlplane.Target{Keys: controlplane.Keys{Verify: []int{1}, Sign: 1}, ControllerManagerSign: 1}
	converged := p.cp().Converge(p.T.Context(), target, nil)
	for what, err := range map[string]error{"observing": observed, "converging": converged} {
		if err == nil || !strings.Contains(err.Error(), name) || s.Presence != rotation.PresenceUnknown ||
			len(s.Servers) > 0 {
			p.T.Errorf("%s: %+v, %v, want an error that names %s", what, s, err, name)
		}
	}
}

func TestAbsent(t *testing.T) {
	d := driverOf(t, emptyHost(t), localtest.UserCluster("alpha", 3))
	presenceTest{driver: d}.wantAbsent()
	if _, err := d.cp().Config(t.Context(), ""); err == nil {
		t.Error("there is a way to reach it")
	}
	p := newPresenceTest(t) // registered, and with certificates
	p.wantAbsent()
	p.ran("etcd")
	p.wantAbsent()
	if _, err := p.cp().AdminKubeconfig(t.Context()); err == nil {
		t.Error("there is a kubeconfig")
	}
	p.ran(components.APIServerName(1))
	p.wantError("configured.json")
}

// TestPartlyMissing takes away one file at a time of a control plane that exists.
func TestPartlyMissing(t *testing.T) {
	p := newPresenceTest(t)
	for i := range p.Replicas {
		p.configure(i)
		p.ran(components.APIServerName(i))
		p.wantPresent()
	}
	p.remove(p.Path("haproxy.cfg"))
	p.wantPresent()
	p.remove(p.APIServerKeys(0).Dir, "configured.json")
	s := p.wantPresent()
	if !s.Servers[0].Configured.IsZero() || s.Servers[1].Configured.Sign != 2 {
		t.Errorf("got %+v", s)
	}
	p.remove(p.APIServerKeys(1).Dir, "configured.json")
	p.remove(p.APIServerKeys(2).Dir, "configured.json")
	p.wantError("configured.json")
	p.configure(1)
	p.wantPresent()
	spoiled := filepath.Join(p.APIServerKeys(2).Dir, "configured.json")
	if err := os.WriteFile(spoiled, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.wantError(p.APIServerKeys(2).Dir)
	p.remove(spoiled)
	p.wantPresent()
	p.remove(p.PKI("keyturn.crt"))
	if _, err := p.cp().Observe(t.Context()); err == nil || !strings.Contains(err.Error(), "keyturn.crt") {
		t.Errorf("observing without credentials: %v", err)
	}
}

func TestLostRegistry(t *testing.T) {
	p := newPresenceTest(t)
	p.configure(0)
	p.remove(p.driver.host.Data.RegistryPath())
	p.wantError(p.driver.host.Data.RegistryPath())
	if gone, err := p.cp().Delete(t.Context()); gone || err == nil {
		t.Errorf("deleting a cluster that the registry does not list: %v, %v", gone, err)
	}
	if _, err := p.cp().Config(t.Context(), ""); err == nil {
		t.Error("there is a way to reach it")
	}
}

// TestUnusableSpec deletes a cluster that could never have been made of its spec.
func TestUnusableSpec(t *testing.T) {
	p := newPresenceTest(t)
	p.configure(0)
	p.UC.Spec.Infrastructure.Local.Network.PodCIDR = "garbage"
	p.wantError("podCIDR")
	if gone, err := p.cp().Delete(t.Context()); !gone || err != nil {
		t.Errorf("deleting: %v, %v", gone, err)
	}
	network := &p.UC.Spec.Infrastructure.Local.Network
	network.PodCIDR, network.ServiceCIDR = "192.168.0.0/16", "garbage"
	p.wantAbsent()
	if gone, err := p.cp().Delete(t.Context()); !gone || err != nil {
		t.Errorf("deleting what is gone: %v, %v", gone, err)
	}
}

// TestStaleTarget refuses a target before anything is started.
func TestStaleTarget(t *testing.T) {
	p := newPresenceTest(t)
	p.configure(1)
	if err := p.ControllerManagerKeys(0).Configure(2, hostKeys([]keystore.KeyPair{localtest.Key(t, 2)})); err != nil {
		t.Fatal(err)
	}
	keys := []keystore.KeyPair{localtest.Key(t, 1), localtest.Key(t, 2)}
	for _, target := range []controlplane.Target{
		{Keys: controlplane.Keys{Verify: []int{1, 2}, Sign: 1}, ControllerManagerSign: 2},
		{Keys: controlplane.Keys{Verify: []int{1, 2}, Sign: 2}, ControllerManagerSign: 1},
	} {
		if err := p.cp().Converge(t.Context(), target, keys); !errors.Is(err, controlplane.ErrStale) {
			t.Errorf("%+v: %v", target, err)
		}
		if s := p.wantPresent(); !s.Servers[0].Configured.IsZero() {
			t.Errorf("%+v: it was refused, and an API server was configured", target)
		}
	}
}

// TestLateWrite acts on a view from before somebody else gave an API server later keys.
func TestLateWrite(t *testing.T) {
	p := newPresenceTest(t)
	before, err := p.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.configure(0)
	target := controlplane.Target{Keys: controlplane.Keys{Verify: []int{1}, Sign: 1}, ControllerManagerSign: 1}
	if err := before.refuseStale(target); err != nil {
		t.Fatal(err)
	}
	keys := hostKeys([]keystore.KeyPair{localtest.Key(t, 1)})
	if err := staleness(p.convergeServers(t.Context(), before, target, keys)); !errors.Is(err, controlplane.ErrStale) {
		t.Errorf("got %v", err)
	}
	if held, err := p.APIServerKeys(0).Configured(); err != nil || held.Sign != 2 {
		t.Errorf("the API server is configured with %v, %v", held, err)
	}
	if err := staleness(nil); err != nil {
		t.Error(err)
	}
}
