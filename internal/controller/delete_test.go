package controller_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestDelete deletes a cluster in each step of a rotation, and while none runs.
func TestDelete(t *testing.T) {
	for _, step := range []string{"", "Publish", "Switch", "Refresh", "Retire"} {
		t.Run("in step "+step, func(t *testing.T) {
			w := newWorld(t)
			blue := w.settled("blue")
			if step != "" {
				w.rotate(blue)
				w.until(blue, inStep(step))
			}
			w.delete(blue)
			w.until(blue, isGone)
			w.wantNothing(blue)
		})
	}
}

// TestDeleteInOrder loses the answer to the first write to each object of the admin cluster while a cluster is
// deleted, so that a round gets no further than one write.
func TestDeleteInOrder(t *testing.T) {
	losing, lost := false, map[string]bool{}
	w := newFaultyWorld(t, kubetest.Inject(controllerConfig, func(r *http.Request) kubetest.Fault {
		if !losing || r.Method == http.MethodGet || lost[r.URL.Path] {
			return kubetest.None
		}
		lost[r.URL.Path] = true
		return kubetest.LoseAnswer
	}))
	blue := w.settled("blue")
	w.rotate(blue)
	w.until(blue, inStep("Refresh"))
	w.delete(blue)
	losing, w.failing = true, true
	var left []string
	w.until(blue, isGone, func(uc *v1alpha1.UserCluster) { left = append(left, w.left(blue, uc)) })
	want := []string{
		"nodes, control plane, keys, kubeconfig, finalizer",
		"control plane, keys, kubeconfig, finalizer",
		"keys, kubeconfig, finalizer",
		"kubeconfig, finalizer",
		"finalizer",
		"",
	}
	if got := slices.Compact(left); !slices.Equal(got, want) {
		t.Errorf("what was left, round by round:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// left names what is left of a cluster.
func (w *world) left(key client.ObjectKey, uc *v1alpha1.UserCluster) string {
	w.Helper()
	var names []string
	add := func(is bool, name string) {
		if is {
			names = append(names, name)
		}
	}
	w.with(key, func(c *userCluster) {
		add(len(c.nodes) > 0, "nodes")
		add(len(c.servers) > 0 || len(c.disk) > 0, "control plane")
	})
	add(len(w.stored(key)) > 0, "keys")
	add(w.kubeconfig(key) != "", "kubeconfig")
	add(uc != nil, "finalizer")
	return strings.Join(names, ", ")
}

// wantNothing wants nothing to be left of a deleted cluster.
func (w *world) wantNothing(key client.ObjectKey) {
	w.Helper()
	if left := w.left(key, nil); left != "" {
		w.Errorf("%s are left", left)
	}
	if m := w.metric("keyturn_", key); len(m) > 0 {
		w.Errorf("metrics %v are left", m)
	}
}
