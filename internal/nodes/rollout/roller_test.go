package rollout

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// roller notes since when nodes are to be new.
type roller struct {
	asked []time.Time
	// keeps is the name of the node that it does not replace.
	keeps string
}

func (r *roller) Keeps(node *corev1.Node) bool { return node.Name == r.keeps }

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

// TestRollerKeepsNodes evicts the pods on a node that is not replaced, and has only the others replaced.
func TestRollerKeepsNodes(t *testing.T) {
	b := evicting(t)
	must(t, appear(b.ctx, "kept", nil))
	r := &roller{keeps: "kept"}
	b.cluster.NodeRefresh, b.cluster.Roller = v1alpha1.NodeRefreshReplace, r
	b.secret("legacy", corev1.SecretTypeServiceAccountToken)
	b.pod("theirs", "theirs", both(withToken, controlled(b, "theirs")))
	b.pod("kept", "kept", both(withToken, controlled(b, "kept")))
	b.pod("copies", "kept", both(copiesSecret("legacy"), controlled(b, "copies")))
	b.pod("bare", "kept", withToken)
	b.until("the pods on the node that stays to be evicted", 2, func(st nodes.State) bool {
		return !b.podExists("kept") && !b.podExists("copies") &&
			waitingFor("node theirs to be replaced", "pod "+b.ns+"/bare on node kept to be deleted")(st)
	})
	if !b.podExists("theirs") || !b.podExists("bare") {
		t.Error("a pod was evicted whose node is replaced, or that nothing makes again")
	}
	must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "theirs", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	b.until("only the node that stays to be old", 2, func(st nodes.State) bool {
		return !strings.Contains(st.Waiting, "to be replaced")
	})
	asked := len(r.asked)
	must(t, client.CoreV1().Pods(b.ns).Delete(b.ctx, "bare", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	b.until("the end", 2, func(st nodes.State) bool { return st.Oldest == 2 })
	if len(r.asked) > asked {
		t.Error("nodes were to be replaced that had no old pod")
	}
}
