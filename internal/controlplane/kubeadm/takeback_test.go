package kubeadm

import (
	"os"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/rotation"
)

// edit changes the manifest of a kube-apiserver, as an administrator does.
func (h *host) edit(old, text string) {
	h.t.Helper()
	file := h.Manifests + "/kube-apiserver.yaml"
	before := h.read(file)
	if !strings.Contains(before, old) {
		h.t.Fatalf("the manifest has no %q", old)
	}
	h.write(file, []byte(strings.Replace(before, old, text, 1)))
	h.theirs = true
}

const (
	rootless = "  securityContext:\n    runAsUser: 1000\n"
	lasting  = "    - --service-account-max-token-expiration=9000h\n"
)

// TestTakenBack has a conversion to signers not succeed. The spec takes the source back, and the cluster is as before:
// no signer is left, it can be rotated, and converted once the cause is mended.
func TestTakenBack(t *testing.T) {
	const after = "    - --service-cluster-ip-range"
	for name, test := range map[string]struct {
		// prepare makes the conversion of a node fail, and mend has it succeed.
		prepare, mend func(*testCluster, *host)
		// waits is a part of what the conversion waits for.
		waits string
		// undone means that the agent undoes the change.
		undone bool
		// nodes are the control planes with which it is tried.
		nodes []string
	}{
		"without an image": {
			func(w *testCluster, _ *host) { w.unsigned = true },
			func(w *testCluster, _ *host) { w.unsigned = false },
			"was started without --signer-image", false, []string{"a"},
		},
		"an image that cannot be pulled": {
			func(_ *testCluster, h *host) { h.unpullable = true },
			func(_ *testCluster, h *host) { h.unpullable = false },
			"which it gets from its signer", false, []string{"a", "abc"},
		},
		"undone": {
			func(_ *testCluster, h *host) { h.broken = true },
			func(_ *testCluster, h *host) { h.broken = false },
			v1alpha1.AnnotationRetryChange, true, []string{"a", "abc"},
		},
		"rootless": {
			func(_ *testCluster, h *host) { h.edit("  securityContext:\n", rootless) },
			func(_ *testCluster, h *host) { h.edit(rootless, "  securityContext:\n") },
			"does not run as root", false, []string{"a"},
		},
		"tokens that last": {
			func(_ *testCluster, h *host) { h.edit(after, lasting+after) },
			func(_ *testCluster, h *host) { h.edit(lasting, "") },
			"the signer signs tokens for at most", false, []string{"abc"},
		},
	} {
		for _, nodes := range test.nodes {
			t.Run(name+" "+nodes, func(t *testing.T) {
				w := newTestCluster(t, strings.Split(nodes, "")...)
				h := w.hosts[len(w.hosts)/2]
				if !test.undone {
					test.prepare(w, h)
				}
				w.settle()
				w.restarts()
				if test.undone {
					test.prepare(w, h)
				}
				w.convert(h, test.undone)
				if d := w.round(); !strings.Contains(d.Waiting, test.waits) || d.Settled {
					t.Fatalf("the conversion waits for %s", d.Waiting)
				}
				if nodes == "abc" && !w.hosts[0].served.External {
					t.Fatal("no API server has a signer")
				}
				w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceFiles
				w.settle()
				w.have(1, false)
				w.noSigner()
				w.uc.Spec.KSASigningKey.Version = 2
				w.settle()
				w.have(2, false)
				test.mend(w, h)
				w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
				w.settle()
				w.have(2, true)
			})
		}
	}
}

// convert has the spec want signers, and goes on until the conversion comes no further. undone has the agent of a node
// put back what was there before.
func (w *testCluster) convert(h *host, undone bool) {
	w.t.Helper()
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	if undone {
		w.until("the change to be undone", func() bool { return h.restarts > 0 })
		o := agent.Order{Do: agent.Undo, Cluster: string(w.uc.UID), For: h.Instance()}
		if r := h.Apply(w.t.Context(), o); r.Answer != agent.Done {
			w.t.Fatalf("%+v", r)
		}
		h.broken = false
	}
	var d rotation.Decision
	for range 40 {
		d = w.round()
		w.check()
	}
	if d.Settled {
		w.t.Fatal("the conversion succeeded")
	}
}

// noSigner wants no signer and no key of one to be left.
func (w *testCluster) noSigner() {
	w.t.Helper()
	for _, h := range w.hosts {
		keys, err := os.ReadDir(h.StateDir + "/keys")
		if err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
		if _, err := os.Stat(h.Manifests + "/keyturn-signer.yaml"); err == nil || len(keys) > 0 {
			w.t.Errorf("node %s has a signer, and the keys %v of it", h.name, keys)
		}
	}
}
