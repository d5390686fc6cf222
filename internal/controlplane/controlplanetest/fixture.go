package controlplanetest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
)

// fixture is one cluster, and the key versions 1 and 2.
type fixture struct {
	Cluster
	patience time.Duration
	external bool
	fixed    bool
	keys     []keystore.KeyPair
}

// seen is an observed state.
type seen struct{ controlplane.State }

// server returns the API server of a name; zero if it is not listed.
func (s seen) server(name string) controlplane.Server {
	i := slices.IndexFunc(s.Servers, func(x controlplane.Server) bool { return x.Name == name })
	if i < 0 {
		return controlplane.Server{}
	}
	return s.Servers[i]
}

func (s seen) lists(name string) bool { return s.server(name).Name != "" }
func (s seen) ready(name string) bool { return s.server(name).Ready }

// runs reports whether an API server is configured and runs with these keys.
func (s seen) runs(name string, k controlplane.Keys) bool {
	x := s.server(name)
	return x.Configured.Equal(k) && x.Running.Equal(k)
}

// has reports whether it also serves.
func (s seen) has(name string, k controlplane.Keys) bool { return s.runs(name, k) && s.ready(name) }

// settled reports whether everything matches the target.
func (s seen) settled(target controlplane.Target) bool {
	for _, x := range s.Servers {
		if !s.has(x.Name, target.Keys) {
			return false
		}
	}
	for _, m := range s.ControllerManagers {
		if m.Configured != target.ControllerManagerSign || m.Running != m.Configured || !m.Ready {
			return false
		}
	}
	return len(s.Servers) > 0 && s.Waiting == ""
}

// signed returns these keys, from a signer.
func signed(k controlplane.Keys) controlplane.Keys {
	k.External = true
	return k
}

// observe observes an existing control plane.
func (f fixture) observe(t *testing.T) seen {
	t.Helper()
	s, err := f.Open(t).Observe(t.Context())
	if err != nil {
		t.Fatalf("observing: %v", err)
	}
	if s.Presence != rotation.PresencePresent || len(s.Servers) == 0 || s.Endpoint == "" {
		t.Fatalf("a control plane that exists is observed as %+v", s)
	}
	for _, x := range s.Servers {
		if x.Name == "" || !strings.HasPrefix(x.Endpoint, "https://") || x.Ready == (x.Waiting != "") {
			t.Errorf("an API server is observed as %+v", x)
		}
	}
	return seen{s}
}

// wantAbsent requires that the cluster has no control plane.
func (f fixture) wantAbsent(t *testing.T) {
	t.Helper()
	a := f.Open(t)
	s, err := a.Observe(t.Context())
	if err != nil || s.Presence != rotation.PresenceAbsent || len(s.Servers)+len(s.ControllerManagers) > 0 {
		t.Fatalf("a control plane that does not exist is observed as %+v, %v", s, err)
	}
	if _, err := a.Config(t.Context(), ""); err == nil {
		t.Error("there is a way to reach it")
	}
}

// wantUnknown requires that the control plane is reported as unknown.
func (f fixture) wantUnknown(t *testing.T) {
	t.Helper()
	s, err := f.Open(t).Observe(t.Context())
	if err == nil && s.Presence != rotation.PresenceUnknown {
		t.Fatalf("a control plane that cannot be read is observed as %+v", s)
	}
}

// servers returns the names of the API servers.
func (f fixture) servers(t *testing.T) (names []string) {
	t.Helper()
	for _, x := range f.observe(t).Servers {
		names = append(names, x.Name)
	}
	if len(names) < 2 {
		t.Fatalf("the suite needs two API servers, and there are %q", names)
	}
	return names
}

func (f fixture) processes(t *testing.T) map[string]string {
	t.Helper()
	running := map[string]string{}
	for _, name := range f.servers(t) {
		running[name] = f.Process(t, name)
	}
	return running
}

func (f fixture) wantProcesses(t *testing.T, want map[string]string) {
	t.Helper()
	if got := f.processes(t); !maps.Equal(got, want) {
		t.Errorf("API servers had the processes %v, and have %v", want, got)
	}
}

func (f fixture) converge(t *testing.T, target controlplane.Target, keys []keystore.KeyPair) {
	t.Helper()
	if err := f.Open(t).Converge(t.Context(), target, keys); err != nil {
		t.Fatalf("converging to %+v: %v", target, err)
	}
}

// settle converges, with a new adapter each time, until everything matches the target.
func (f fixture) settle(t *testing.T, target controlplane.Target, keys []keystore.KeyPair) {
	t.Helper()
	var s seen
	f.until(t, fmt.Sprintf("settled at %+v", target), func() bool {
		f.converge(t, target, keys)
		s = f.observe(t)
		return s.settled(target)
	})
}

// make creates the control plane with its first keys.
func (f fixture) make(t *testing.T, k controlplane.Keys) {
	t.Helper()
	f.settle(t, controlplane.Target{Keys: k, ControllerManagerSign: k.Sign}, f.keys)
}

// give takes one API server down to give it keys.
func (f fixture) give(t *testing.T, server string, k controlplane.Keys, sign int) {
	t.Helper()
	target := controlplane.Target{Keys: k, Next: server, ControllerManagerSign: sign}
	f.until(t, fmt.Sprintf("%s at %+v", server, k), func() bool {
		f.converge(t, target, f.keys)
		return f.observe(t).has(server, k)
	})
}

// giveEach gives keys to one API server after another. No two are down at a time.
func (f fixture) giveEach(t *testing.T, k controlplane.Keys, sign int) {
	t.Helper()
	for _, server := range f.servers(t) {
		f.give(t, server, k, sign)
	}
	f.settle(t, controlplane.Target{Keys: k, ControllerManagerSign: sign}, f.keys)
}

// wantRepeatable requires that converging to the current state changes nothing.
func (f fixture) wantRepeatable(t *testing.T, target controlplane.Target, keys []keystore.KeyPair) {
	t.Helper()
	running := f.processes(t)
	for _, target.Next = range append(f.servers(t), "") {
		target.Live = !target.Live
		f.converge(t, target, keys)
		f.converge(t, target, keys)
	}
	if s := f.observe(t); !s.settled(target) {
		t.Errorf("converging to what is there makes it %+v", s)
	}
	f.wantProcesses(t, running)
}

// wantReachable requires that each API server and all of them together can be reached, and no other.
func (f fixture) wantReachable(t *testing.T) {
	t.Helper()
	a := f.Open(t)
	for _, name := range append(f.servers(t), "") {
		if cfg, err := a.Config(t.Context(), name); err != nil || cfg.Host == "" {
			t.Errorf("reaching API server %q: %+v, %v", name, cfg, err)
		}
	}
	if _, err := a.Config(t.Context(), "nobody"); err == nil {
		t.Error("there is a way to reach an API server that does not exist")
	}
	if file, err := a.AdminKubeconfig(t.Context()); err != nil || len(file) == 0 {
		t.Errorf("the administrator's kubeconfig has %d bytes, %v", len(file), err)
	}
}

// wantNoLedger requires that API servers without signers have no ledger.
func (f fixture) wantNoLedger(t *testing.T) {
	t.Helper()
	for _, name := range f.servers(t) {
		if r, err := f.Open(t).Ledger(t.Context(), name); !errors.Is(err, controlplane.ErrNoLedger) {
			t.Errorf("the ledger of %s, which signs with files, is %+v, %v", name, r, err)
		}
	}
}

// wantLedgers requires that each API server with a signer has a ledger, and no other.
func (f fixture) wantLedgers(t *testing.T) {
	t.Helper()
	a := f.Open(t)
	for _, name := range f.servers(t) {
		if _, err := a.Ledger(t.Context(), name); err != nil {
			t.Errorf("reading the ledger of %s: %v", name, err)
		}
	}
	if r, err := a.Ledger(t.Context(), "nobody"); err == nil || errors.Is(err, controlplane.ErrNoLedger) {
		t.Errorf("the ledger of an API server that does not exist is %+v, %v", r, err)
	}
}

// wantStale requires that a target is refused, and changes nothing.
func (f fixture) wantStale(t *testing.T, target controlplane.Target) {
	t.Helper()
	was, running := f.observe(t), f.processes(t)
	if err := f.Open(t).Converge(t.Context(), target, f.keys); !errors.Is(err, controlplane.ErrStale) {
		t.Errorf("converging back to %+v: %v, want ErrStale", target, err)
	}
	is := f.observe(t)
	for i, x := range is.Servers {
		if !x.Configured.Equal(was.Servers[i].Configured) {
			t.Errorf("%s was configured with %v, and is with %v", x.Name, was.Servers[i].Configured, x.Configured)
		}
	}
	for i, m := range is.ControllerManagers {
		if m.Configured != was.ControllerManagers[i].Configured {
			t.Errorf("%s was configured with %d, and is with %d", m.Name, was.ControllerManagers[i].Configured, m.Configured)
		}
	}
	f.wantProcesses(t, running)
}

// wantProven requires that each API server proves these keys, since an adapter may report them without doing anything.
func (f fixture) wantProven(t *testing.T, k controlplane.Keys) {
	t.Helper()
	for _, server := range f.servers(t) {
		var proof controlplane.Proof
		f.until(t, server+" to prove its keys", func() bool {
			cfg, err := f.Open(t).Config(t.Context(), server)
			if err != nil {
				t.Fatal(err)
			}
			proof, err = f.Prove(t.Context(), controlplane.Question{Config: cfg, Keys: f.keys, External: k.External})
			return err == nil && proof.Signs == k.Sign && slices.Equal(proof.Accepts, k.Verify) &&
				len(proof.Accepts)+len(proof.Refuses) == len(f.keys)
		})
	}
}

// delete deletes the control plane, and requires that nothing is left.
func (f fixture) delete(t *testing.T) {
	t.Helper()
	f.until(t, "the control plane to be gone", func() bool {
		gone, err := f.Open(t).Delete(t.Context())
		if err != nil {
			t.Fatalf("deleting: %v", err)
		}
		return gone
	})
	f.wantAbsent(t)
	if gone, err := f.Open(t).Delete(t.Context()); !gone || err != nil {
		t.Errorf("deleting what is gone: %v, %v", gone, err)
	}
}

// until repeats do until it returns true.
func (f fixture) until(t *testing.T, what string, do func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(f.patience); time.Now().Before(deadline); <-tick.C {
		if do() {
			return
		}
	}
	t.Fatalf("%s: not within %v; last seen: %+v", what, f.patience, f.observe(t))
}

// watch tracks which API servers are down.
type watch struct {
	fixture
	t *testing.T
	// before are the processes at the beginning, and back the API servers with a new process that serves.
	before map[string]string
	back   map[string]bool
	state  seen
}

func (f fixture) watch(t *testing.T) *watch {
	t.Helper()
	return &watch{fixture: f, t: t, before: f.processes(t), back: map[string]bool{}}
}

// check fails the test if two API servers are down. One is down from the end of its process until it serves again.
func (w *watch) check() {
	w.t.Helper()
	var out []string
	for name, was := range w.before {
		if w.Process(w.t, name) != was && !w.back[name] {
			out = append(out, name)
		}
	}
	w.state = w.observe(w.t)
	for _, name := range out {
		w.back[name] = w.state.ready(name) && w.state.server(name).Running.Equal(w.state.server(name).Configured)
	}
	if out = slices.DeleteFunc(out, func(name string) bool { return w.back[name] }); len(out) > 1 {
		w.t.Fatalf("%q are out at a time", out)
	}
}

func generate(t *testing.T, version int, algorithm string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
