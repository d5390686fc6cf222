package kubeadm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
)

// paused are the agents as a controller reaches them that stops right before a call and goes on long after.
type paused struct {
	*testCluster
	// takes has it stop before it takes a turn, and else before it sends an order that restarts an API server.
	takes bool
	// resume does what it was about to do; nil before it stopped.
	resume func() error
}

// enough is far above the rounds until a controller gets somewhere.
const enough = 200

var errPaused = errors.New("the controller is paused")

func (p *paused) take(ctx context.Context, was, next int64) error {
	if !p.takes || p.resume != nil {
		return p.testCluster.take(ctx, was, next)
	}
	p.resume = func() error { return p.testCluster.take(ctx, was, next) }
	return errPaused
}

func (p *paused) apply(ctx context.Context, to pod, o agent.Order) (agent.Report, error) {
	if p.takes || p.resume != nil || o.Restart == "" {
		return p.testCluster.apply(ctx, to, o)
	}
	p.resume = func() error {
		r, err := p.testCluster.apply(ctx, to, o)
		return errors.Join(err, answer(to.name, r))
	}
	return agent.Report{}, errPaused
}

// TestPausedController has a controller stop when it has decided to restart an API server, and go on while that of
// another node is out, which a second controller has changed. The annotation makes the restart another one than the
// second controller's, or it would change nothing anyhow.
func TestPausedController(t *testing.T) {
	for name, takes := range map[string]bool{"before its turn": true, "in its turn": false} {
		t.Run(name, func(t *testing.T) {
			w := newTestCluster(t, "a", "b", "c")
			w.settle()
			w.uc.Spec.KSASigningKey.Version = 2
			first := &paused{testCluster: w, takes: takes}
			w.open = func() *Cluster {
				c := w.adapter()
				c.memory = &memory{nodes: map[string]nodeMemory{}}
				c.open = func(context.Context) (plane, agents, error) { return w, first, nil }
				return c
			}
			for range enough {
				if first.resume == nil {
					w.round()
				}
			}
			w.restarts()

			w.open = w.adapter
			w.uc.Annotations = map[string]string{v1alpha1.AnnotationRetryChange: "1"}
			b := w.host("b")
			for range enough {
				if b.down == 0 {
					w.round()
					w.check()
				}
			}
			if first.resume == nil || b.down == 0 {
				t.Fatalf("the controllers did not come that far:\n%s", strings.Join(w.log, "\n"))
			}
			if err := first.resume(); err == nil {
				t.Error("the late controller was not refused")
			}
			w.hosts[0].kubelet()
			w.check()
			w.settle()
			w.have(2, false)
		})
	}
}

// TestTurnWaitsForAgents has an API server that may not be restarted while the agent of another node cannot be told of
// the turn.
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
