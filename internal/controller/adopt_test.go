package controller_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

// theirs is a control plane with one API server that somebody else made, and the nodes beside it.
type theirs struct {
	key keystore.KeyPair
	// handsOut is after how many calls it hands out the key, and gives what it hands out.
	handsOut int
	gives    crypto.Signer
	// adopted reports whether its key is stored: before, its keys are no versions.
	adopted func() bool
	// hidden is why it cannot be reached; nil when it can.
	hidden error
	// writes counts what would change it, and left how often it was left.
	writes, left int
}

func (p *theirs) Observe(context.Context) (controlplane.State, error) {
	if p.hidden != nil {
		return controlplane.State{}, p.hidden
	}
	var first rotation.Keys
	if p.adopted() {
		first = rotation.Keys{Verify: []int{1}, Sign: 1}
	}
	return controlplane.State{Presence: rotation.PresencePresent, Servers: []controlplane.Server{
		{Name: "cp-1", Endpoint: "https://cp-1.test", Ready: true, Configured: first, Running: first},
	}}, nil
}

func (p *theirs) SigningKey(_ context.Context, keyID string) (crypto.Signer, error) {
	if keyID != p.key.KeyID {
		return nil, errors.New("no API server signs with it")
	}
	if p.handsOut--; p.handsOut >= 0 {
		return nil, nil
	}
	return p.gives, nil
}

func (p *theirs) Converge(context.Context, controlplane.Target, []keystore.KeyPair) error { return nil }

func (p *theirs) Config(context.Context, string) (*rest.Config, error) {
	return &rest.Config{Host: "https://cp-1.test"}, nil
}

func (p *theirs) AdminKubeconfig(context.Context) ([]byte, error) {
	p.writes++ // nobody gets one of a cluster that is not ours
	return []byte("none"), nil
}

func (p *theirs) Ledger(context.Context, string) (ledger.Report, error) {
	return ledger.Report{}, controlplane.ErrNoLedger
}

func (p *theirs) Leave(context.Context) error {
	p.left++
	return p.hidden
}

func (p *theirs) Delete(context.Context) (bool, error) { return p.hidden == nil, p.hidden }

func (p *theirs) prove(_ context.Context, q controlplane.Question) (controlplane.Proof, error) {
	proof := controlplane.Proof{SigningKeyID: p.key.KeyID}
	for _, k := range q.Keys {
		if k.KeyID == p.key.KeyID {
			proof.Accepts, proof.Signs = []int{k.Version}, k.Version
		}
	}
	return proof, nil
}

// theirNodes are nodes that nobody has anything to do with.
type theirNodes struct{}

func (theirNodes) Observe(context.Context, nodes.Keys) (nodes.State, error) {
	return nodes.State{Converged: true}, nil
}
func (theirNodes) Converge(context.Context, nodes.Keys) error { return nil }
func (theirNodes) Delete(context.Context) (bool, error)       { return true, nil }

// adopting is a world in which a cluster is adopted.
func adopting(t *testing.T) (*world, *theirs, client.ObjectKey) {
	t.Helper()
	w := newWorld(t)
	key, err := keystore.Generate(rand.Reader, 1, "RS256")
	if err != nil {
		t.Fatal(err)
	}
	p := &theirs{key: key, gives: key.Signer, handsOut: 2}
	w.reconciler.ControlPlane = func(*v1alpha1.UserCluster) (controlplane.Adapter, error) { return p, nil }
	w.reconciler.Prove = p.prove
	w.reconciler.Nodes = func(*v1alpha1.UserCluster) (nodes.Adapter, error) { return theirNodes{}, nil }
	prod := w.create("prod", func(uc *v1alpha1.UserCluster) {
		uc.Spec.Infrastructure = v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{KubeconfigSecret: "prod"}}
		uc.Spec.KSASigningKey.Source = ""
	})
	p.adopted = func() bool { return len(w.stored(prod)) > 0 }
	return w, p, prod
}

// TestAdopt takes the key that a cluster signs with as version 1, once the infrastructure hands it out.
func TestAdopt(t *testing.T) {
	w, p, prod := adopting(t)
	uc := w.until(prod, isSettled)
	keys := uc.Status.KSASigningKey.Keys
	if len(keys) != 1 || keys[0].KeyID != p.key.KeyID || keys[0].Version != 1 || !slices.Equal(w.stored(prod), []int{1}) {
		t.Errorf("its keys are %+v", keys)
	}
	if p.writes > 0 || w.kubeconfig(prod) != "" {
		t.Error("a kubeconfig was made")
	}
	w.delete(prod)
	w.until(prod, isGone)
	if left := w.stored(prod); len(left) > 0 {
		t.Errorf("key versions %v are left", left)
	}
}

// TestAdoptAnotherKey is handed a key that no API server signs with.
func TestAdoptAnotherKey(t *testing.T) {
	w, p, prod := adopting(t)
	other, err := keystore.Generate(rand.Reader, 1, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	right := p.gives
	p.gives, w.failing = other.Signer, true
	uc := w.until(prod, isBlocked)
	if text := condition(uc, v1alpha1.ConditionReady).Message; !strings.Contains(text, "its private key has the kid") {
		t.Errorf("it says %q", text)
	}
	if stored := w.stored(prod); len(stored) > 0 {
		t.Errorf("key versions %v are stored", stored)
	}
	p.gives = right
	w.until(prod, isSettled)
}

// TestLeaveCluster deletes a UserCluster whose cluster is gone for good.
func TestLeaveCluster(t *testing.T) {
	w, p, prod := adopting(t)
	w.until(prod, isSettled)
	p.hidden, w.failing = errors.New("no route to host"), true
	w.delete(prod)
	var uc *v1alpha1.UserCluster
	for range 5 {
		uc = w.round(prod)
	}
	if uc == nil || len(w.stored(prod)) == 0 {
		t.Fatal("the UserCluster is gone while its cluster is not released")
	}
	if text := condition(uc, v1alpha1.ConditionReady).Message; !strings.Contains(text, v1alpha1.AnnotationLeaveCluster) {
		t.Errorf("nothing is said of the way out: %q", text)
	}
	uc.Annotations = map[string]string{v1alpha1.AnnotationLeaveCluster: "its machines are gone"}
	if err := admin.Update(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	w.until(prod, isGone)
	if left := w.stored(prod); len(left) > 0 || p.left != 1 {
		t.Errorf("key versions %v are left, and it was left %d times", left, p.left)
	}
	want := "Warning DeleteCluster ClusterNotReleased: no route to host"
	if told := w.recorder.of(prod); !slices.Contains(told, want) {
		t.Errorf("the events are %q, want %q among them", told, want)
	}
}
