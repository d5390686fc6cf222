package controller_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes"
)

// inquiry is a world whose clock is set, and which counts what a round asks its clusters.
type inquiry struct {
	*world
	mu sync.Mutex
	// whole and brief are how many API servers proved all that they can, and only that they are as before.
	whole, brief int
	// nodes is how often nodes were observed.
	nodes int
	// refusing has API servers refuse canary tokens of keys that they have.
	refusing bool
	// foreign is a key that each API server serves besides.
	foreign []string
	ahead   time.Duration
}

func newInquiry(t *testing.T) *inquiry {
	q := &inquiry{world: newWorld(t)}
	r := q.reconciler
	r.Now = func() time.Time { return time.Now().Add(q.ahead) }
	r.Prove = q.prove
	r.Nodes = func(uc *v1alpha1.UserCluster) (nodes.Adapter, error) { return counted{pools{q.site, uc}, q}, nil }
	return q
}

func (q *inquiry) prove(ctx context.Context, of controlplane.Question) (controlplane.Proof, error) {
	proof, err := q.site.prove(ctx, of)
	q.mu.Lock()
	defer q.mu.Unlock()
	if of.Settled {
		q.brief++
	} else {
		q.whole++
	}
	if of.Settled && proof.Signs == 0 || q.refusing && !of.Settled {
		proof.Accepts = nil
	}
	proof.Foreign = q.foreign
	return proof, err
}

// counted are nodes that count how often they are observed.
type counted struct {
	nodes.Adapter
	by *inquiry
}

func (c counted) Observe(ctx context.Context, keys nodes.Keys) (nodes.State, error) {
	c.by.mu.Lock()
	c.by.nodes++
	c.by.mu.Unlock()
	return c.Adapter.Observe(ctx, keys)
}

// asked returns what the rounds since the last call have asked.
func (q *inquiry) asked() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	asked := fmt.Sprintf("%d whole proofs, %d brief ones, nodes %d times", q.whole, q.brief, q.nodes)
	q.whole, q.brief, q.nodes = 0, 0, 0
	return asked
}

const (
	askedAll    = "3 whole proofs, 0 brief ones, nodes 1 times"
	askedLess   = "0 whole proofs, 3 brief ones, nodes 0 times"
	askedNodes  = "0 whole proofs, 3 brief ones, nodes 1 times"
	settledSoon = 10 * time.Minute
)

// next has one round once the pause after the last one is over, and returns when another one is to come.
func (q *inquiry) next(key client.ObjectKey, pause time.Duration) time.Duration {
	q.Helper()
	q.ahead += pause
	result, err := q.reconciler.Reconcile(q.Context(), ctrl.Request{NamespacedName: key})
	if err != nil {
		q.Fatal(err)
	}
	return result.RequeueAfter
}

// settledThree makes a cluster of three API servers with signers.
func (q *inquiry) settledThree(name string) client.ObjectKey {
	q.Helper()
	key := q.settled(name, func(uc *v1alpha1.UserCluster) {
		uc.Spec.Infrastructure.Local.ControlPlane.Replicas = 3
		uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	})
	q.asked()
	return key
}

// TestRoutineRounds has rounds of a settled cluster ask for less once their time has come, and for all when somebody
// brings them forward or anything of the cluster has changed.
func TestRoutineRounds(t *testing.T) {
	q := newInquiry(t)
	blue := q.settledThree("blue")
	pause := q.next(blue, 0)
	want := func(when, want string) {
		t.Helper()
		if asked := q.asked(); asked != want {
			t.Errorf("%s: a round asked for %s, want %s", when, asked, want)
		}
	}
	want("brought forward", askedAll)
	for i := range 7 {
		pause = q.next(blue, pause)
		if pause < settledSoon/2 {
			t.Fatalf("the next round is to begin in %s", pause)
		}
		want("in time", []string{askedLess, askedLess, askedNodes}[i%3])
	}
	pause = q.next(blue, pause-time.Second)
	want("brought forward by a second", askedAll)
	q.annotate(blue)
	pause = q.next(blue, pause)
	want("with a new annotation", askedAll)
	q.with(blue, func(c *userCluster) { c.servers[1].Endpoint = "https://elsewhere.test" })
	pause = q.next(blue, pause)
	want("with another control plane", askedAll)
	q.next(blue, pause)
	want("in time again", askedLess)

	q.rotate(blue)
	uc := q.untilRotated(blue)
	if q.brief > 0 || uc.Status.KSASigningKey.TokenVersion != 2 {
		t.Errorf("the rotation to key version %d rests on %d brief proofs", uc.Status.KSASigningKey.TokenVersion, q.brief)
	}
}

// untilRotated has rounds at all times until a rotation has ended.
func (q *inquiry) untilRotated(key client.ObjectKey) *v1alpha1.UserCluster {
	q.Helper()
	return q.until(key, func(uc *v1alpha1.UserCluster) bool {
		q.ahead += settledSoon
		return isSettled(uc)
	})
}

func (q *inquiry) annotate(key client.ObjectKey) {
	q.Helper()
	uc := q.get(key)
	uc.Annotations = map[string]string{"example.com/wake": "now"}
	if err := admin.Update(q.Context(), uc); err != nil {
		q.Fatal(err)
	}
}

// TestRoutineRoundFinds has something happen to a settled cluster of which nobody tells the controller. The next round
// finds it, and another one with whole proofs follows before anything is written.
func TestRoutineRoundFinds(t *testing.T) {
	second := func(change func(*server)) func(*inquiry, client.ObjectKey) {
		return func(q *inquiry, key client.ObjectKey) {
			q.with(key, func(c *userCluster) { change(&c.servers[1]) })
		}
	}
	for name, happen := range map[string]func(*inquiry, client.ObjectKey){
		"another signing key": second(func(s *server) { s.signs = "another" }),
		"a lost key":          second(func(s *server) { s.accepts = nil }),
		"a dead API server":   second(func(s *server) { s.Ready, s.Waiting = false, "died" }),
		"a foreign key":       func(q *inquiry, _ client.ObjectKey) { q.foreign = []string{"foreign"} },
		"another kubeconfig": func(q *inquiry, key client.ObjectKey) {
			q.with(key, func(c *userCluster) { c.kubeconfig = "another" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := newInquiry(t)
			blue := q.settledThree("blue")
			q.rotate(blue)
			q.untilRotated(blue) // a foreign key is only wrong after the first version
			pause := q.next(blue, 0)
			before := q.get(blue)
			happen(q, blue)
			q.asked()
			q.ahead += pause
			uc := q.round(blue)
			if q.brief > 0 && uc.ResourceVersion != before.ResourceVersion {
				t.Error("a routine round has written the status")
			}
			if q.brief > 0 {
				q.asked()
				uc = q.round(blue)
			}
			if isSettled(uc) || q.whole == 0 {
				t.Errorf("the cluster is %+v, by %d whole proofs", condition(uc, v1alpha1.ConditionReady), q.whole)
			}
		})
	}
}

// TestCanariesAfterAWake has API servers refuse canary tokens of a key that they serve and sign with: no routine round
// can see that, and a round that somebody brings forward does.
func TestCanariesAfterAWake(t *testing.T) {
	q := newInquiry(t)
	blue := q.settledThree("blue")
	pause := q.next(blue, 0)
	q.refusing = true
	if q.next(blue, pause); !isSettled(q.get(blue)) {
		t.Error("a routine round reviews canary tokens")
	}
	if uc := q.round(blue); isSettled(uc) {
		t.Error("the cluster is settled while it refuses canary tokens")
	}
}

// TestNodesAreSeenAgain has a node fail of which nobody tells: the third routine round sees it, and the status of those
// before keeps what it says of nodes.
func TestNodesAreSeenAgain(t *testing.T) {
	q := newInquiry(t)
	blue := q.settledThree("blue")
	pause := q.next(blue, 0)
	pools := q.get(blue).Status.NodePools
	q.with(blue, func(c *userCluster) { c.nodes[0].Ready = false })
	for range 2 {
		pause = q.next(blue, pause)
		uc := q.get(blue)
		if !isSettled(uc) || !slices.Equal(uc.Status.NodePools, pools) {
			t.Errorf("the status has the pools %+v, want %+v", uc.Status.NodePools, pools)
		}
	}
	if pause = q.next(blue, pause); pause > time.Second {
		t.Fatalf("nobody sees that a node has failed: the next round is to begin in %s", pause)
	}
	q.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return condition(uc, v1alpha1.ConditionReady).Status == metav1.ConditionFalse
	})
}
