package tokens

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// Executor replaces tokens of pods on those nodes of one cluster that stay, during one call.
type Executor struct {
	Policy Policy
	Keys   nodes.Keys
	// Refresher reaches the machines. It is needed only if some stay.
	Refresher nodes.Refresher
	Client    kubernetes.Interface
	Memory    *Memory
	// Every is how often tokens are read.
	Every time.Duration
	Now   time.Time
	// Clock returns the time at which something has been observed; Now is when the round began.
	Clock func() time.Time
}

// Plan returns what to do now. It does nothing to the machines that are going.
func (e *Executor) Plan(s *Observed, going map[string]bool) []Chain {
	views := make([]View, len(s.Views))
	for i, v := range s.Views {
		v.Going = going[v.Name]
		views[i] = v
	}
	return Plan(views, e.Policy, e.Now)
}

// Do carries out a plan.
func (e *Executor) Do(ctx context.Context, s *Observed, plan []Chain) error {
	views := map[string]View{}
	for _, v := range s.Views {
		views[v.Name] = v
	}
	var errs []error
	for _, todo := range plan {
		errs = append(errs, e.run(ctx, views, todo))
	}
	return errors.Join(errs...)
}

// run does the actions of a chain, and stops at the first that fails.
func (e *Executor) run(ctx context.Context, views map[string]View, todo Chain) error {
	for _, a := range todo {
		if err := e.do(ctx, a.Step, views[a.Node]); err != nil {
			return err
		}
	}
	return nil
}

func (e *Executor) do(ctx context.Context, step Step, v View) error {
	switch m := v.Machine; step {
	case Begin:
		m.Refresh = nodes.Refresh{KeyVersion: e.Policy.KeyVersion, Since: e.Now}
		return e.remember(ctx, m)
	case RestartKubelet:
		if err := e.Refresher.RestartKubelet(ctx, m.Name); err != nil {
			return fmt.Errorf("restarting the kubelet of machine %s: %w", m.Name, err)
		}
		return nil
	case Prove:
		m.Refresh.Proven = e.Clock() // after the files were read
		return e.remember(ctx, m)
	case Refreshed:
		m.KeyVersion = e.Policy.KeyVersion
		if !e.Policy.How.KeepsPods() { // Its pods were evicted. The stored version of an earlier Refresh must not decrease.
			m.Refresh = nodes.Refresh{KeyVersion: m.KeyVersion, Since: e.Now, Proven: e.Now}
		}
		return e.finish(ctx, m, v.Registered)
	default:
		return fmt.Errorf("unknown step %q", step)
	}
}

// finish marks a machine as one of the new key version. The label goes first: once the last machine is of the new
// version, nobody converges nodes any more. After a crash in between, both labels are right for a machine that is
// refreshing.
func (e *Executor) finish(ctx context.Context, m nodes.Machine, registered bool) error {
	if registered {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:"%d"}}}`, v1alpha1.LabelKeyVersion, m.KeyVersion)
		_, err := e.Client.CoreV1().Nodes().Patch(ctx, m.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("labelling node %s: %w", m.Name, err)
		}
	}
	return e.remember(ctx, m)
}

// remember stores the progress of the replacement of its tokens with a machine.
func (e *Executor) remember(ctx context.Context, m nodes.Machine) error {
	if err := e.Refresher.Remember(ctx, m); err != nil {
		return fmt.Errorf("remembering the refresh of machine %s: %w", m.Name, err)
	}
	return nil
}
