package kubeadm

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/rotation"
)

// restart has the kubelet start kube-apiserver again, without a change.
func (h *host) restart() { h.manifest, h.theirs = "", true }

// regenerate writes the manifests as kubeadm does, which knows of no signer and no annotation.
func (h *host) regenerate() {
	if h.upgrade.manager = h.manager; h.manifest != h.original {
		h.upgrade.server = h.manifest
	}
	h.write(h.Manifests+"/kube-apiserver.yaml", []byte(h.original))
	h.write(h.Manifests+"/kube-controller-manager.yaml", []byte(managerManifest))
	h.unmarked, h.theirs = true, true
}

// checkUpgrade wants other manifests than those that ran when kubeadm wrote them, until the kubelet has run others:
// kubeadm waits for that, and fails.
func (h *host) checkUpgrade() {
	h.t.Helper()
	if h.upgrade.server == h.read(h.Manifests+"/kube-apiserver.yaml") {
		h.t.Errorf("kubeadm upgrade waits for kube-apiserver on %s to run another manifest", h.name)
	}
	if mark := h.managerMark(); mark != "" && h.upgrade.manager == mark {
		h.t.Errorf("kubeadm upgrade waits for kube-controller-manager on %s to run another manifest", h.name)
	}
}

// TestUpgradeInProgress has kubeadm upgrade write the manifests of a node whose kubelet is slow, while agents are
// there. Keyturn changes them again at once.
func TestUpgradeInProgress(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	w.settle()
	w.uc.Spec.KSASigningKey.Version, w.slow = 2, true
	for range 60 {
		w.round()
	}
	b := w.host("b")
	for range 2 { // after the first, the marks are others than those of the rotation
		b.regenerate()
		b.slow = true
		w.until("kube-apiserver to be given its signer again", func() bool {
			w.round()
			w.check()
			return strings.Contains(b.read(b.Manifests+"/kube-apiserver.yaml"), "signing-endpoint")
		})
		b.slow = false
		for range 60 {
			w.round()
			w.check()
		}
	}
	w.slow, w.log = false, nil // the plan names Switch again while the API server has its keys from files
	w.settle()
	w.have(2, true)
}

// reboot starts everything on a node again. The agent's pod is the same one with another key.
func (h *host) reboot() {
	h.restart()
	h.Key = must(agent.NewPrivateKey())
	h.stop()
	h.stop, h.served.IssuedAt = func() {}, time.Time{}
}

// event is what people do to control-plane nodes while Keyturn rotates keys.
type event struct {
	name string
	// lags means that a node comes with keys from before, whose API server refuses tokens until it is brought up.
	lags bool
	// begin does it, and end what comes some time later; nil for nothing.
	begin, end func(w *testCluster)
}

// events are for a cluster of nodes a and b. first has the files from before the rotation.
func events(first func() (private, public []byte)) []event {
	join := func(w *testCluster, private, public []byte) { w.join("c", private, public).unmarked = true }
	return []event{
		{"kubeadm join with fresh kubeadm-certs", false, func(w *testCluster) {
			a := w.host("a")
			join(w, []byte(a.read(a.PKI+"/sa.key")), []byte(a.read(a.PKI+"/sa.pub")))
		}, nil},
		{"kubeadm join with stale kubeadm-certs", true, func(w *testCluster) {
			private, public := first()
			join(w, private, public)
		}, nil},
		// It touches no service account key, and its user restarts the static pods.
		{"kubeadm certs renew", false, func(w *testCluster) { w.host("b").restart() }, nil},
		{"kubeadm upgrade apply --force", false, func(w *testCluster) { w.host("b").regenerate() }, nil},
		{"a reboot", false, func(w *testCluster) { w.host("b").reboot() }, nil},
		{"a node that is off for a while", false, func(w *testCluster) { w.host("b").off = true }, func(w *testCluster) {
			w.host("b").off = false
			w.host("b").reboot()
		}},
		{"a machine that is deleted, and drained for a while", false, func(w *testCluster) {
			w.host("b").leaving = true
		}, func(w *testCluster) { w.hosts = w.hosts[:1] }},
	}
}

// TestEvents has each event come in each step of a rotation, with files and with signers. No API server is ever seen to
// refuse what another signs but one that just came with old keys, and in the end all nodes have the new key alone.
func TestEvents(t *testing.T) {
	steps := []rotation.Step{rotation.StepPublish, rotation.StepSwitch, rotation.StepRefresh, rotation.StepRetire, ""}
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		for _, step := range steps {
			var private, public []byte
			for _, e := range events(func() ([]byte, []byte) { return private, public }) {
				t.Run(string(source)+"/"+string(step)+"/"+e.name, func(t *testing.T) {
					w := newTestCluster(t, "a", "b")
					a := w.hosts[0]
					private, public = []byte(a.read(a.PKI+"/sa.key")), []byte(a.read(a.PKI+"/sa.pub"))
					w.uc.Spec.KSASigningKey.Source = source
					w.settle()
					w.uc.Spec.KSASigningKey.Version = 2
					w.upTo(step)
					w.lagging = e.lags
					e.begin(w)
					if e.end != nil {
						for range 20 {
							w.round()
							w.check()
						}
						e.end(w)
					}
					w.log = nil // a node that comes with old keys may bring a step back that had not begun everywhere
					w.settle()
					w.have(2, source == v1alpha1.KeySourceExternal)
				})
			}
		}
	}
}

// upTo does rounds until a step begins; until the rotation is over for the empty one.
func (w *testCluster) upTo(step rotation.Step) {
	w.t.Helper()
	if step == "" {
		w.settle()
		return
	}
	var d rotation.Decision
	w.until("step "+string(step), func() bool {
		d = w.round()
		return d.Step == step
	})
}

// TestLeaving has a machine be deleted. Its API server is waited for until pods no longer reach it.
func TestLeaving(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	b := w.host("b")
	for _, test := range []struct {
		off, listed bool
		address     string
		want        bool
	}{
		{}, {off: true, listed: true}, {off: true, want: true},
		{off: true, listed: true, address: "a", want: true}, // which was given to another machine
	} {
		b.leaving, b.off, b.listed, b.address = true, test.off, test.listed, test.address
		state := must(w.adapter().Observe(t.Context()))
		if s := state.Servers[1]; s.Leaving != test.want || len(state.ControllerManagers) == 2 == test.want {
			t.Errorf("with %+v it is %+v, beside %+v", test, s, state.ControllerManagers)
		}
	}
}

// rotateWithoutLast rotates to version 2 while the last node is removed, and returns that, started again with its old
// disk.
func (w *testCluster) rotateWithoutLast() *host {
	w.t.Helper()
	w.settle()
	last := len(w.hosts) - 1
	away := w.hosts[last]
	w.hosts = w.hosts[:last]
	w.uc.Spec.KSASigningKey.Version = 2
	w.settle()
	away.reboot()
	return away
}

// TestOffBeforeAndBackAfter has a node be removed before a rotation, and come back after it with its old disk.
func TestOffBeforeAndBackAfter(t *testing.T) {
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		w := newTestCluster(t, "a", "b", "c")
		w.uc.Spec.KSASigningKey.Source = source
		away := w.rotateWithoutLast()
		w.hosts, w.lagging = append(w.hosts, away), true
		w.settle()
		w.have(2, source == v1alpha1.KeySourceExternal)
		if _, err := os.Stat(away.StateDir + "/agent/undo.json"); err == nil {
			t.Error("the change is not settled")
		}
	}
}

// TestBackWithSigner has a node with a signer be off when a rotation begins, and Keyturn be started again, which then
// knows nothing of that node. It comes back after the look by which its turn is planned, with its agent answering before
// its API server. That starts with the signer, so nobody restarts it.
func TestBackWithSigner(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.upTo(rotation.StepPublish)
	c := w.host("c")
	c.off = true
	w.memo = &memory{nodes: map[string]nodeMemory{}}
	var d rotation.Decision
	w.until("the turn of c", func() bool {
		d = w.round()
		return d.Action.Target.Next == "c"
	})
	c.off = false
	c.reboot()
	must(w.find(t.Context())) // its kubelet starts its pods
	w.restarts()
	must(0, w.act(t.Context(), w.open(), d, w.keys()))
	w.log = nil
	w.settle()
	w.have(2, true)
	if r := w.restarts(); slices.Max(r) != 0 {
		t.Errorf("API servers were restarted: %v", r)
	}
}

// TestUnlabelled has a node come back whose Node was deleted, so that it lacks the label of the control plane. Its
// owner is asked for that, since a node could not give it to itself. Keyturn may run in the cluster itself, which the
// rotation has moved then: it remembers nothing of the node, whose API server refuses Keyturn's own token too.
func TestUnlabelled(t *testing.T) {
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, own %t", source, own), func(t *testing.T) {
				w := newTestCluster(t, "a", "b", "c")
				w.uc.Spec.KSASigningKey.Source = source
				away := w.rotateWithoutLast()
				if w.own = own; own {
					w.memo = &memory{nodes: map[string]nodeMemory{}}
				}
				away.unlabelled = true
				w.hosts, w.lagging = append(w.hosts, away), true
				w.until("the label to be asked for", func() bool {
					return strings.Contains(w.round().Waiting, "kubectl label node c "+controlPlaneLabel+"=")
				})
				away.unlabelled = false
				w.settle()
				w.have(2, source == v1alpha1.KeySourceExternal)
			})
		}
	}
}
