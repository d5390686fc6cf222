package plane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/signer/ledger"
)

// externalKeys are the keys of API servers with signers.
func externalKeys(sign int, verify ...int) controlplane.Keys {
	return controlplane.Keys{Verify: verify, Sign: sign, External: true}
}

// TestSigners gives the API servers of a running cluster signers, changes their keys, and takes the signers away again,
// under load, with tokens being issued all the time.
func TestSigners(t *testing.T) {
	dir := t.TempDir()
	kubetest.Build(t, dir, "../../../cmd/keyturn-signer")
	h := testHost(t, dir, true)
	d := newDriver(t, h, localtest.UserCluster("alpha", 3))
	one, two := localtest.Key(t, 1), localtest.Key(t, 2)
	d.Until("creation", controlplane.Target{Keys: controlplane.Keys{Verify: []int{1}, Sign: 1}, ControllerManagerSign: 1},
		[]keystore.KeyPair{one}, localtest.Ready)
	old := d.Issue("apiserver-0")

	cfg, err := d.cp().Config(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	clients := startLoad(t, cfg)

	d.Give("to signers", externalKeys(1, 1), 1, one)
	clients.mustAllSucceed(t)
	if left := localtest.FilesNamed(t, h.Data.Path(), "sa-1."); len(left) > 2 { // of kube-controller-managers
		t.Errorf("API servers with signers have files of keys: %v", left)
	}
	d.Issue("apiserver-0")
	pids := d.pids()
	d.live("publish", externalKeys(1, 1, 2), 1, one, two)
	d.live("switch", externalKeys(2, 1, 2), 1, one, two)
	clients.mustAllSucceed(t)
	if !d.Accepts("apiserver-2", old) {
		t.Error("apiserver-2 refuses the old key before it is to")
	}
	d.damage(one, two)
	clients.take() // tokens cannot be issued while there is no signer
	d.live("retire", externalKeys(2, 2), 2, two)
	clients.mustAllSucceed(t)
	d.Issue("apiserver-0")
	d.wantNoted("apiserver-0", one, two)
	if now := d.pids(); !slices.Equal(pids, now) {
		t.Errorf("API servers had the pids %v and have %v", pids, now)
	}
	if left := localtest.FilesNamed(t, h.Data.Path(), "1.key"); len(left) > 0 {
		t.Errorf("old keys left: %v", left)
	}

	d.Give("to files", controlplane.Keys{Verify: []int{2}, Sign: 2}, 2, two)
	// An API server closes the connection to its signer as soon as it gets the signal to end, also while it waits for an
	// answer (plugin.New in pkg/serviceaccount/externaljwt/plugin).
	clients.mustAllSucceed(t, "failed to generate token: while signing jwt: rpc error: code = Canceled")
	target := controlplane.Target{Keys: controlplane.Keys{Verify: []int{2}, Sign: 2}, ControllerManagerSign: 2}
	d.Until("signers to end", target, []keystore.KeyPair{two},
		func(controlplane.State) bool { return len(localtest.FilesNamed(t, h.Data.Path(), "2.key")) == 0 })
	if r, err := d.cp().Ledger(t.Context(), "apiserver-0"); !errors.Is(err, controlplane.ErrNoLedger) {
		t.Errorf("the ledger of an API server without a signer is %+v, %v", r, err)
	}
	for i := range 3 {
		if pid := d.PID(components.SignerName(i)); pid != 0 {
			t.Errorf("%s has no API server, and still runs", components.SignerName(i))
		}
	}
}

// wantNoted wants the ledger of an API server to have tokens of each of these keys for the account of issue, however
// often its signer was killed.
func (d *driver) wantNoted(server string, keys ...keystore.KeyPair) {
	d.T.Helper()
	r, err := d.cp().Ledger(d.T.Context(), server)
	if err != nil {
		d.T.Fatal(err)
	}
	for _, k := range keys {
		if !slices.ContainsFunc(r.Entries, func(e ledger.Entry) bool {
			return e.KeyID == k.KeyID && e.Namespace == "default" && e.ServiceAccount == "default" && !e.Coarse &&
				len(e.Audiences) > 0
		}) {
			d.T.Errorf("the ledger of %s has no token of %s: %+v", server, k, r)
		}
	}
}

// live gives all API servers keys at once, and waits for each to prove them.
func (d *driver) live(what string, want controlplane.Keys, sign int, keys ...keystore.KeyPair) {
	d.T.Helper()
	target := controlplane.Target{Keys: want, Live: true, ControllerManagerSign: sign}
	d.Until(what, target, keys, func(s controlplane.State) bool {
		for _, server := range s.Servers {
			if !server.Running.Equal(want) || !server.Ready {
				return false
			}
			cfg, err := d.cp().Config(d.T.Context(), server.Name)
			if err != nil {
				d.T.Fatal(err)
			}
			proof, err := d.prover.Prove(d.T.Context(), controlplane.Question{Config: cfg, Keys: keys, External: true})
			if err != nil || proof.Signs != want.Sign || !slices.Equal(proof.Accepts, want.Verify) {
				return false
			}
		}
		return localtest.Ready(s)
	})
}

// damage kills signers, and spoils what they read.
func (d *driver) damage(keys ...keystore.KeyPair) {
	d.T.Helper()
	site, _, err := d.host.Data.Site(datadir.SiteName(d.UC))
	if err != nil {
		d.T.Fatal(err)
	}
	l := components.Layout{Site: site}
	spoil := map[string]func() error{
		"signer killed":        func() error { d.Kill(components.SignerName(0)); return nil },
		"signing child killed": func() error { return syscall.Kill(d.childOf(components.SignerName(0)), syscall.SIGKILL) },
		"signing child hung":   func() error { return syscall.Kill(d.childOf(components.SignerName(1)), syscall.SIGSTOP) },
		"manifest cut off": func() error {
			return os.Truncate(filepath.Join(l.APIServerKeys(1).SignerDir, "..data", "keys.json"), 20)
		},
		"keys readable by others": func() error {
			return os.Chmod(filepath.Join(l.APIServerKeys(2).SignerDir, "..data", "2.key"), 0o644)
		},
		"served keys forgotten and signer killed": func() error {
			d.Kill(components.SignerName(0))
			return os.Remove(filepath.Join(l.ServerDir(0), "signer", "served.json"))
		},
		"keys gone and signer killed": func() error {
			d.Kill(components.SignerName(2))
			return os.RemoveAll(l.APIServerKeys(2).SignerDir)
		},
	}
	for what, do := range spoil {
		if err := do(); err != nil {
			d.T.Fatalf("%s: %v", what, err)
		}
		want := externalKeys(2, 1, 2)
		d.live("after "+what, want, 1, keys...)
		for i := range 3 {
			if served, ok := l.APIServerKeys(i).Served(); !ok || !served.Equal(want) {
				d.T.Errorf("after %s: signer %d is told to serve %v, %v", what, i, served, ok)
			}
		}
	}
}

// childOf is the pid of the only child of a process.
func (d *driver) childOf(process string) int {
	d.T.Helper()
	pid := d.PID(process)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		d.T.Fatal(err)
	}
	var children []byte
	for _, path := range threads {
		if of, err := os.ReadFile(path); err == nil { // a thread that is gone has none
			children = append(children, of...)
		}
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		d.T.Fatalf("%s has the children %q, want one", process, children)
	}
	return child
}

func (d *driver) pids() (pids []int) {
	for i := range int(d.UC.Spec.Infrastructure.Local.ControlPlane.Replicas) {
		pids = append(pids, d.PID(components.APIServerName(i)))
	}
	return pids
}
