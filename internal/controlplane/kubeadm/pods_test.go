package kubeadm

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestGivenNamespace makes, replaces and removes the agents in a namespace that the controller may neither make nor
// remove.
func TestGivenNamespace(t *testing.T) {
	r := newReach("uid", kubetest.Start(t, kubetest.Options{}), &controlplane.Prover{})
	defer r.close()
	client, err := r.client()
	if err != nil {
		t.Fatal(err)
	}
	p := &pods{reach: r, images: Images{Agent: "agent:v1", Namespace: "agents"}, cluster: "uid", given: true}
	if err := p.ensure(t.Context()); err == nil {
		t.Error("there are agents without their namespace")
	} else if _, blocked := errors.AsType[*controlplane.BlockedError](err); !blocked {
		t.Errorf("nobody is asked to make the namespace: %v", err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "agents"}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := p.ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1000, 1)
	if err := p.noteUpload(t.Context(), at, 4); err != nil {
		t.Error(err)
	}
	p.images.Agent = "agent:v2"
	if err := p.ensure(t.Context()); err != nil {
		t.Error(err)
	}
	seen, err := p.list(t.Context())
	if !seen.asked || !seen.dropped.Equal(at) || seen.droppedFor != 4 || err != nil {
		t.Errorf("the agents are %+v: %v", seen, err)
	}
	if err := p.take(t.Context(), 0, 1); err != nil {
		t.Error(err)
	}
	if err := p.dismiss(t.Context(), seen); !errors.Is(err, errTaken) {
		t.Errorf("agents are dismissed after somebody has taken the turn: %v", err)
	}
	if err := p.dismiss(t.Context(), must(p.list(t.Context()))); err != nil {
		t.Error(err)
	}
	gone, again := must(p.list(t.Context())), p.ensure(t.Context())
	if gone.asked || again != nil {
		t.Errorf("the agents are %+v, and made again: %v", gone, again)
	}
	seen.turn = 0
	if err := p.dismiss(t.Context(), seen); !errors.Is(err, errTaken) {
		t.Errorf("agents are dismissed that were made again: %v", err)
	}
	if gone, err := p.remove(t.Context()); gone || err != nil {
		t.Errorf("the first removal: %t, %v", gone, err)
	}
	if gone, err := p.remove(t.Context()); !gone || err != nil {
		t.Errorf("the second removal: %t, %v", gone, err)
	}
	left, err := client.CoreV1().Namespaces().Get(t.Context(), "agents", metav1.GetOptions{})
	if err != nil || left.DeletionTimestamp != nil || len(left.Labels) > 1 {
		t.Errorf("the namespace is %+v, %v", left, err)
	}
}
