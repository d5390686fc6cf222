package kubeadm

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/agent/agentpod"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/evict"
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
	images := Images{Agent: "agent:v1", Namespace: "agents"}
	p := &pods{reach: r, images: images, cluster: "uid", certificatesDir: "/pki", given: true}
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
	set, err := client.AppsV1().DaemonSets("agents").Get(t.Context(), agentpod.Name, metav1.GetOptions{})
	if err != nil || !slices.ContainsFunc(set.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool {
		return v.HostPath != nil && v.HostPath.Path == "/pki"
	}) {
		t.Errorf("no agent sees the directory of the keys: %v", err)
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

// TestTidy removes what is marked as the cluster's, and nothing of another UserCluster.
func TestTidy(t *testing.T) {
	cfg := kubetest.Start(t, kubetest.Options{})
	r := newReach("uid", cfg, &controlplane.Prover{})
	defer r.close()
	client := must(r.client())
	p := &pods{reach: r, images: Images{Agent: "agent:v1", Namespace: "agents"}, cluster: "uid", certificatesDir: "/pki"}
	accounts := client.CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	notes := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	there := func() (account, note bool) {
		_, errAccount := accounts.Get(t.Context(), controlplane.Canary.Name, metav1.GetOptions{})
		_, errNote := notes.Get(t.Context(), evict.NoteName, metav1.GetOptions{})
		return errAccount == nil, errNote == nil
	}
	for uid, stay := range map[types.UID]bool{"another": true, "uid": false} {
		must((&controlplane.Prover{}).Served(t.Context(), uid, cfg)) // makes the account
		e := &evict.Executor{Cluster: string(uid), Client: client, Keys: nodes.Keys{KeyID: "a", ProvenAt: time.Now()}}
		must(0, e.Note(t.Context()))
		must(p.remove(t.Context()))
		if account, note := there(); account != stay || note != stay {
			t.Errorf("of %s, the account is there: %t, and the note: %t", uid, account, note)
		}
		if stay {
			e.Cluster = "uid"
			if err := e.Note(t.Context()); err == nil {
				t.Error("the note of another UserCluster is replaced")
			}
			must(0, accounts.Delete(t.Context(), controlplane.Canary.Name, metav1.DeleteOptions{}))
			must(0, notes.Delete(t.Context(), evict.NoteName, metav1.DeleteOptions{}))
		}
	}
}
