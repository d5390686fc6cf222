package kubeadm

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
)

// paused are the agents as a controller reaches them that stops right before a call and goes on long after.
type paused struct {
	*testCluster
	// beforeTake has it stop before it takes a turn, beforeDismiss before it removes the agents, and beforeApply before it
	// sends an order.
	beforeTake, beforeDismiss bool
	beforeApply               func(agent.Order) bool
	// resume does what it was about to do; nil before it stopped.
	resume func() error
}

// enough is far above the rounds until a controller gets somewhere.
const enough = 200

var errPaused = errors.New("the controller is paused")

func (p *paused) take(ctx context.Context, was, next int64) error {
	if !p.beforeTake || p.resume != nil {
		return p.testCluster.take(ctx, was, next)
	}
	p.resume = func() error { return p.testCluster.take(ctx, was, next) }
	return errPaused
}

func (p *paused) dismiss(ctx context.Context, seen roster) error {
	if !p.beforeDismiss || p.resume != nil {
		return p.testCluster.dismiss(ctx, seen)
	}
	p.resume = func() error { return p.testCluster.dismiss(ctx, seen) }
	return errPaused
}

func (p *paused) apply(ctx context.Context, to pod, o agent.Order) (agent.Report, error) {
	if p.beforeApply == nil || p.resume != nil || !p.beforeApply(o) {
		return p.testCluster.apply(ctx, to, o)
	}
	p.resume = func() error {
		r, err := p.testCluster.apply(ctx, to, o)
		return errors.Join(err, answer(to.name, r))
	}
	return agent.Report{}, errPaused
}

// await has a controller of its own work until it stops, and then others take over.
func (p *paused) await() {
	p.t.Helper()
	p.open = func() *Cluster {
		c := p.adapter()
		c.open = func(context.Context) (plane, agents, error) { return p.testCluster, p, nil }
		return c
	}
	p.until("the first controller to stop", func() bool { return p.resume != nil })
	p.open, p.memo = p.adapter, &memory{nodes: map[string]nodeMemory{}}
}

// until does rounds.
func (w *testCluster) until(what string, done func() bool) {
	w.t.Helper()
	for range enough {
		if done() {
			return
		}
		w.round()
		w.check()
	}
	w.t.Fatalf("waiting for %s:\n%s", what, strings.Join(w.log, "\n"))
}

// TestPausedController has a controller stop when it has decided to restart an API server, and go on while that of
// another node is out, which a second controller has changed. The annotation makes the restart another one than the
// second controller's, or it would change nothing anyhow.
func TestPausedController(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	first := &paused{testCluster: w, beforeTake: true}
	first.await()
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationRetryChange: "1"}
	w.until("another API server to be out", func() bool { return w.host("b").down > 0 })
	if err := first.resume(); !errors.Is(err, errTaken) {
		t.Errorf("the late controller got the turn: %v", err)
	}
	w.settle()
	w.have(2, false)
}

// TestLateOrder has a controller stop after it has taken its turn, and send its order while another API server is out
// that a second controller brings up.
func TestLateOrder(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	a := w.hosts[0]
	private, public := []byte(a.read(a.PKI+"/sa.key")), []byte(a.read(a.PKI+"/sa.pub"))
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	first := &paused{testCluster: w, beforeApply: func(o agent.Order) bool { return o.Restart != "" && o.Keys.Sign == 2 }}
	first.await()
	before := a.manifest
	d := w.join("d", private, public)
	w.lagging = true
	w.until("the API server that refuses tokens to be out", func() bool { return d.down > 0 })
	if err := first.resume(); err == nil || !strings.Contains(err.Error(), "turn") {
		t.Errorf("the late order was not refused: %v", err)
	}
	a.kubelet()
	if a.manifest != before {
		t.Error("the late order restarted an API server")
	}
	w.log = nil // Switch had not begun
	w.settle()
	w.have(2, false)
}

// TestLateSettle has a controller stop when it has proven a change and is about to settle it, and go on when a second
// one has settled that and begun the next change of the same node. What that replaced is kept: kube-apiserver may not
// come up with it.
func TestLateSettle(t *testing.T) {
	w := newTestCluster(t, "a")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	first := &paused{testCluster: w, beforeApply: func(o agent.Order) bool { return o.Do == agent.Settle }}
	first.await()
	a := w.hosts[0]
	w.until("the next change to be begun", func() bool { return a.restarts == 1 && a.nextIsWritten() })
	if err := first.resume(); err != nil {
		t.Error(err)
	}
	o := agent.Order{Do: agent.Observe, Cluster: string(w.uc.UID), For: a.Instance()}
	if r := a.Apply(t.Context(), o); r.Found.Change != agent.Pending {
		t.Errorf("the change is %q", r.Found.Change)
	}
	w.settle()
	w.have(2, false)
}

// nextIsWritten reports whether the manifest is another one than kube-apiserver runs with.
func (h *host) nextIsWritten() bool { return h.read(h.Manifests+"/kube-apiserver.yaml") != h.manifest }

// TestLateDismissal has a controller stop when it is about to remove the agents, and go on while an API server is out
// that a second controller has changed.
func TestLateDismissal(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	first := &paused{testCluster: w, beforeDismiss: true}
	first.await()
	w.uc.Spec.KSASigningKey.Version = 3
	w.until("an API server to be out", func() bool { return w.host("a").down > 0 })
	if err := first.resume(); !errors.Is(err, errTaken) || !w.asked {
		t.Errorf("the late controller removes the agents: %v", err)
	}
	w.log = nil // the end of the rotation before
	w.settle()
	w.have(3, false)
}

// TestBusyWhileDismissed has an agent be busy when it is to delete copies of the retired key: it stays until it has.
func TestBusyWhileDismissed(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	b := w.host("b")
	b.write(b.PKI+"/sa.key.bak", []byte(b.read(b.PKI+"/sa.key")))
	busy := &busyAgent{testCluster: w, times: 3}
	w.open = func() *Cluster {
		c := w.adapter()
		c.open = func(context.Context) (plane, agents, error) { return w, busy, nil }
		return c
	}
	w.uc.Spec.KSASigningKey.Version = 2
	w.settle()
	if _, err := os.Stat(b.PKI + "/sa.key.bak"); err == nil || busy.times > 0 {
		t.Errorf("a copy of the retired key is left: %v", err)
	}
}

// busyAgent is busy some times when it is to delete copies of keys.
type busyAgent struct {
	*testCluster
	times int
	mu    sync.Mutex
}

func (p *busyAgent) apply(ctx context.Context, to pod, o agent.Order) (agent.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if to.name == "b" && o.Do == agent.Settle && len(o.Retired) > 0 && o.Restart == "" && p.times > 0 {
		p.times--
		return agent.Report{Answer: agent.Busy}, nil
	}
	return p.testCluster.apply(ctx, to, o)
}

// TestTurnWaitsForAgents has an API server that may not be restarted while the agent of another node cannot be asked to
// refuse late orders.
func TestTurnWaitsForAgents(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.hosts[1].mute = true
	for range 2 * patience {
		w.round()
	}
	if r := w.restarts(); r[0]+r[1] > 0 {
		t.Errorf("API servers were restarted: %v", r)
	}
	w.hosts[1].mute = false
	w.settle()
	w.have(2, false)
}
