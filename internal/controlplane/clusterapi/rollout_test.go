package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
	"github.com/keyturn/keyturn/internal/rotation"
)

// aged reads Machines as if each was made at the time in its annotation.
type aged struct{ client.Client }

const createdAnnotation = "created"

func (a aged) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	err := a.Client.List(ctx, list, options...)
	if machines, ok := list.(*unstructured.UnstructuredList); ok {
		for i := range machines.Items {
			created := must(time.Parse(time.RFC3339, machines.Items[i].GetAnnotations()[createdAnnotation]))
			machines.Items[i].SetCreationTimestamp(metav1.NewTime(created))
		}
	}
	return err
}

// machines is a control plane whose machines are replaced as a KubeadmControlPlane does it.
type machines struct {
	kubeadmCluster
	t        *testing.T
	admin    client.Client
	clusters *Clusters
	uc       *v1alpha1.UserCluster
	store    keystore.Store
	random   *rand.Rand
	// now is the time of all.
	now   time.Time
	hosts []simulated
	// replaced counts the machines that were deleted, and made those that were made.
	replaced, made int
	refreshed      bool
}

// simulated is one control-plane machine. It has the keys of the material at the time when its data was made.
type simulated struct {
	name    string
	keys    rotation.Keys
	created time.Time
	coming  bool
	// foreign are the kids of foreign keys that it accepts.
	foreign []string
}

// Observe implements controlplane.Adapter.
func (w *machines) Observe(context.Context) (controlplane.State, error) {
	s := controlplane.State{Presence: rotation.PresencePresent}
	for _, h := range w.hosts {
		server := controlplane.Server{Name: h.name, Configured: h.keys, Running: h.keys, Ready: true, Foreign: h.foreign}
		if h.coming {
			server = controlplane.Server{Name: h.name, Waiting: "it is to become a node"}
		}
		s.Servers = append(s.Servers, server)
	}
	return s, nil
}

func (w *machines) cluster() *Cluster {
	c := w.clusters.Open(w.uc)
	c.kubeadmCluster, c.roller.now = w, func() time.Time { return w.now }
	return c
}

// make makes a machine. Its bootstrap data may be made of a material that was read a moment ago.
func (w *machines) make(keys rotation.Keys, coming bool) {
	w.made++
	h := simulated{name: fmt.Sprintf("m%d", w.made), keys: keys, created: w.now, coming: coming}
	w.hosts = append(w.hosts, h)
	o := must(install.Decode(fmt.Appendf(nil, machineText, h.name, controlPlaneLabel+`: ""`, "prod")))[0]
	o.SetAnnotations(map[string]string{createdAnnotation: text(h.created)})
	must(0, unstructured.SetNestedField(o.Object, h.name, "status", "nodeRef", "name"))
	must(0, w.admin.Create(w.t.Context(), o))
}

// step does one thing that a KubeadmControlPlane does: it makes a machine, waits for it, and deletes one that is too
// old, whichever it likes.
func (w *machines) step(lagging rotation.Keys, count int) {
	w.t.Helper()
	controlPlane := must(w.cluster().roller.controlPlane(w.t.Context()))
	if i := slices.IndexFunc(w.hosts, func(h simulated) bool { return h.coming }); i >= 0 {
		w.hosts[i].coming = false
		return
	}
	var old []int
	for i, h := range w.hosts {
		if h.created.Before(controlPlane.after) {
			old = append(old, i)
		}
	}
	switch {
	case len(old) == 0:
	case len(w.hosts) == count:
		keys := must(w.cluster().material(w.t.Context())).keys
		if w.random.IntN(4) == 0 {
			keys = lagging
		}
		w.make(keys, true)
	default:
		i := old[w.random.IntN(len(old))]
		o := objectOf("Machine")
		o.SetNamespace("default")
		o.SetName(w.hosts[i].name)
		must(0, w.admin.Delete(w.t.Context(), o))
		w.hosts = slices.Delete(w.hosts, i, i+1)
		w.replaced++
	}
}

// round does what a controller does of which only the control plane matters.
func (w *machines) round() rotation.Decision {
	w.t.Helper()
	ctx, c := w.t.Context(), w.cluster()
	keys := must(w.store.List(ctx, keystore.ClusterOf(w.uc)))
	state := must(w.Observe(ctx))
	o := rotation.Observed{
		Wanted: 2, Adopted: true, Presence: state.Presence, Nodes: rotation.Nodes{Converged: true},
		Bootstrap: must(c.material(ctx)).keys,
	}
	for _, k := range keys {
		o.Stored = append(o.Stored, k.Version)
	}
	if w.refreshed {
		o.Legacy = rotation.Legacy{Proven: 2, Final: 2}
	}
	for _, s := range state.Servers {
		seen := rotation.Server{
			Name: s.Name, Configured: s.Configured, Running: s.Running, Ready: s.Ready, Waiting: s.Waiting,
		}
		for _, version := range o.Stored {
			if slices.Contains(s.Running.Verify, version) {
				seen.Accepts = append(seen.Accepts, version)
			} else if s.Ready {
				seen.Refuses = append(seen.Refuses, version)
			}
		}
		seen.Signs = s.Running.Sign
		o.Servers = append(o.Servers, seen)
	}
	d := rotation.Plan(o, w.now)
	switch d.Action.Kind {
	case rotation.ConvergeControlPlane:
		must(0, c.Converge(ctx, d.Action.Target, keys))
	case rotation.RefreshTokens:
		w.refreshed = true
	case rotation.DeleteKey:
		must(0, w.store.Delete(ctx, keystore.ClusterOf(w.uc), d.Action.Version))
	}
	return d
}

// check wants every token of every API server, and until tokens are refreshed those of before, to be accepted by all.
func (w *machines) check() {
	w.t.Helper()
	signing := map[int]bool{1: !w.refreshed}
	for _, h := range w.hosts {
		signing[h.keys.Sign] = signing[h.keys.Sign] || !h.coming
	}
	for _, h := range w.hosts {
		for version, used := range signing {
			if used && !h.coming && !slices.Contains(h.keys.Verify, version) {
				w.t.Fatalf("machine %s has the keys %+v and refuses tokens of key version %d", h.name, h.keys, version)
			}
		}
	}
}

// TestRollout changes keys with new machines.
func TestRollout(t *testing.T) {
	admin := startManagement(t, "Cluster", "Machine", controlPlaneKind)
	t.Run("request", func(t *testing.T) { requestOnce(t, admin) })
	t.Run("the new stay", func(t *testing.T) { newStay(t, admin) })
	t.Run("without an agent", func(t *testing.T) { withoutAgent(t, admin) })
	t.Run("a foreign key", func(t *testing.T) { dropForeign(t, admin) })
	for _, count := range []int{1, 3} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("machines=%d,seed=%d", count, seed), func(t *testing.T) { rollOut(t, admin, count, seed) })
		}
	}
}

// rollOut rotates a key with three rollouts, whichever machine is replaced first, and even if a machine starts with
// keys of the step before, since its data was made of a Secret that was read too early.
func rollOut(t *testing.T, admin client.Client, count int, seed uint64) {
	w := &machines{
		t: t, admin: aged{admin}, store: &keystoretest.Memory{}, uc: adopted(), random: rand.New(rand.NewPCG(seed, 0)),
		now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	w.uc.Spec.Infrastructure.ClusterAPI.Method = v1alpha1.MethodRollout
	create(t, admin, fmt.Sprintf(clusterText, "prod", false, controlPlaneKind, "a"))
	t.Cleanup(func() { removeAll(admin) })
	w.clusters = NewClusters(Options{Client: w.admin, Keys: w.store, Prover: &controlplane.Prover{}})
	k := keyPairs(2)
	for _, each := range k {
		must(0, w.store.Create(t.Context(), keystore.ClusterOf(w.uc), each))
	}
	must(0, admin.Create(t.Context(), secretOf(k[0])))
	lagging := rotation.Keys{Verify: []int{1}, Sign: 1}
	for range count {
		w.make(lagging, false)
	}
	for range 300 {
		before := must(w.cluster().material(t.Context())).keys
		d := w.round()
		if after := must(w.cluster().material(t.Context())).keys; !after.Equal(before) {
			lagging = before
		}
		w.check()
		if d.Settled {
			if w.replaced < 3*count {
				t.Errorf("%d machines were replaced", w.replaced)
			}
			return
		}
		w.step(lagging, count)
		w.check()
		w.now = w.now.Add(700 * time.Millisecond)
	}
	t.Fatalf("the rotation does not end: %+v", w.hosts)
}

// removeAll deletes the objects of a test.
func removeAll(admin client.Client) {
	for _, kind := range []string{"Cluster", "Machine", controlPlaneKind} {
		must(0, admin.DeleteAllOf(context.Background(), objectOf(kind), client.InNamespace("default")))
	}
	must(0, client.IgnoreNotFound(admin.Delete(context.Background(), secretOf(keyPairs(1)...))))
}

// requestOnce requests the replacement of a machine once.
func requestOnce(t *testing.T, admin client.Client) {
	t.Cleanup(func() { removeAll(admin) })
	create(t, admin, topologyText)
	create(t, admin, fmt.Sprintf(clusterText, "one", false, controlPlaneKind, "a"))
	for _, cluster := range []string{"one", "classy"} {
		create(t, admin, fmt.Sprintf(machineText, cluster+"-1", controlPlaneLabel+`: ""`, cluster))
	}
	for _, tt := range []struct {
		cluster, kind string
		path          []string
	}{
		{"one", controlPlaneKind, nil}, {"classy", "Cluster", []string{"topology", "controlPlane"}},
	} {
		now := get(t, admin, "Machine", tt.cluster+"-1").GetCreationTimestamp().Add(time.Second)
		r := rollerOf(admin, tt.cluster, func() time.Time { return now.Add(slack) })
		replace := func() error { return r.replaceMachine(t.Context(), "node-of-"+tt.cluster+"-1") }
		must(0, replace())
		wantAfter(t, admin, tt.kind, tt.cluster, text(now), tt.path...)
		r.now = func() time.Time { return now.Add(time.Hour) }
		must(0, replace())
		wantAfter(t, admin, tt.kind, tt.cluster, text(now), tt.path...)
		r.now = func() time.Time { return now.Add(-time.Hour) }
		err := replace()
		_, blocked := errors.AsType[*controlplane.BlockedError](err)
		if !blocked || !strings.Contains(err.Error(), "to be rolled out at "+text(now)) {
			t.Errorf("a rollout that is to begin later: %v", err)
		}
		if err := r.replaceMachine(t.Context(), "another"); err == nil {
			t.Error("a node without a Machine is replaced")
		}
	}
}

// newStay replaces machines while others are new, also when the request was taken away and is made again.
func newStay(t *testing.T, admin client.Client) {
	t.Cleanup(func() { removeAll(admin) })
	create(t, admin, fmt.Sprintf(clusterText, "prod", false, controlPlaneKind, "a"))
	start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &machines{t: t, admin: aged{admin}, now: start}
	for range 3 {
		w.make(rotation.Keys{}, false)
		w.now = w.now.Add(time.Minute)
	}
	for range 2 {
		r := rollerOf(w.admin, "prod", func() time.Time { return w.now })
		must(0, r.replaceMachine(t.Context(), "m1", "m1", "m2"))
		wantAfter(t, admin, controlPlaneKind, "prod", text(start.Add(time.Minute+time.Second)))
		o := get(t, admin, controlPlaneKind, "prod")
		delete(o.Object, "spec")
		must(0, admin.Update(t.Context(), o))
		err := r.replaceMachine(t.Context(), "m1", "m1", "m2")
		if _, blocked := errors.AsType[*controlplane.BlockedError](err); !blocked {
			t.Errorf("a request that was taken away: %v", err)
		}
	}
}

// dropForeign takes a foreign key first from what machines start with, and then from a machine, which is replaced.
func dropForeign(t *testing.T, admin client.Client) {
	t.Cleanup(func() { removeAll(admin) })
	create(t, admin, fmt.Sprintf(clusterText, "prod", false, controlPlaneKind, "a"))
	k := keyPairs(3)
	must(0, admin.Create(t.Context(), secretOf(k[1], k[2])))
	w := &machines{
		t: t, admin: aged{admin}, uc: adopted(), store: &keystoretest.Memory{},
		now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	w.uc.Spec.Infrastructure.ClusterAPI.Method = v1alpha1.MethodRollout
	w.clusters = NewClusters(Options{Client: w.admin, Keys: w.store, Prover: &controlplane.Prover{}})
	must(0, w.store.Create(t.Context(), keystore.ClusterOf(w.uc), k[1]))
	keys := rotation.Keys{Verify: []int{2}, Sign: 2}
	w.make(keys, false)
	w.hosts[0].foreign = []string{k[2].KeyID}
	w.now = w.now.Add(time.Minute)
	target := controlplane.Target{
		Keys: keys, Next: w.hosts[0].name, DropForeign: w.hosts[0].foreign, ControllerManagerSign: 2,
	}
	converge := func() {
		t.Helper()
		must(0, w.cluster().Converge(t.Context(), target, k[1:2]))
	}
	after := func() time.Time { return must(w.cluster().roller.controlPlane(t.Context())).after }
	if converge(); !after().IsZero() {
		t.Error("a machine is replaced by one with the same foreign key")
	}
	target.Next, target.Bootstrap = "", true
	converge()
	if m := must(w.cluster().material(t.Context())); len(m.foreign) > 0 || !m.keys.Equal(keys) {
		t.Errorf("machines start with %+v and %d foreign keys", m.keys, len(m.foreign))
	}
	target.Next, target.Bootstrap = w.hosts[0].name, false
	if converge(); !after().Equal(w.hosts[0].created.Add(time.Second)) {
		t.Errorf("the machine is not replaced: rollout.after is %s", after())
	}
}

// withoutAgent adopts and releases a cluster on whose machines nothing of Keyturn runs.
func withoutAgent(t *testing.T, admin client.Client) {
	t.Cleanup(func() { removeAll(admin) })
	create(t, admin, fmt.Sprintf(clusterText, "prod", false, controlPlaneKind, "a"))
	k := keyPairs(2)
	must(0, admin.Create(t.Context(), secretOf(k[0])))
	w := &machines{t: t, admin: admin, uc: adopted(), store: &keystoretest.Memory{}, now: time.Now()}
	w.uc.Spec.Infrastructure.ClusterAPI.Method = v1alpha1.MethodRollout
	w.clusters = NewClusters(Options{Client: admin, Keys: w.store, Prover: &controlplane.Prover{}})
	if signer := must(w.cluster().SigningKey(t.Context(), k[0].KeyID)); signer == nil {
		t.Error("the key of the Secret is not adopted")
	}
	_, err := w.cluster().SigningKey(t.Context(), k[1].KeyID)
	if _, blocked := errors.AsType[*controlplane.BlockedError](err); !blocked {
		t.Errorf("a key that only an agent could read: %v", err)
	}
	if gone := must(w.cluster().Delete(t.Context())); !gone {
		t.Error("a cluster without anything on its machines is not released")
	}
}
