package rollout

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// roller notes since when nodes are to be new.
type roller struct{ asked []time.Time }

func (r *roller) Roll(_ context.Context, since time.Time) error {
	r.asked = append(r.asked, since)
	return nil
}

func (r *roller) Reasons(context.Context, time.Time) ([]nodes.Reason, error) {
	return []nodes.Reason{{Words: "somebody to replace machines"}}, nil
}

// TestRoller has somebody else replace the nodes, and believes what the pods show.
func TestRoller(t *testing.T) {
	b := evicting(t)
	r := &roller{}
	b.cluster.NodeRefresh, b.cluster.Roller = v1alpha1.NodeRefreshReplace, r
	b.pod("web", "theirs", withToken)
	if st := b.observe(1); st.Oldest != 1 || st.Waiting != "" || len(r.asked) > 0 {
		t.Fatalf("before the rotation: %+v, asked %v", st, r.asked)
	}
	st := b.until("the nodes to be rolled", 2, func(st nodes.State) bool {
		waits := waitingFor("node theirs to be replaced, on which pod "+b.ns+"/web", "somebody to replace machines")
		return waits(st) && len(r.asked) > 0
	})
	if st.Blocked || st.Oldest != 1 || !b.podExists("web") {
		t.Errorf("while the nodes are rolled: %+v", st)
	}
	must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	st = b.until("the end", 2, func(st nodes.State) bool { return st.Oldest == 2 })
	if st.Waiting != "" || !st.Converged {
		t.Errorf("at the end: %+v", st)
	}
	b.cluster.Roller = nil
	if _, err := b.open().Observe(b.ctx, nodes.Keys{Next: 1}); err == nil {
		t.Error("nodes are to be replaced, and nobody can")
	}
}
