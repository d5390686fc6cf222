package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// TestRotateByWaiting rotates with nodeRefresh Wait while processes are killed: with keys from files until the kubelets
// have replaced the tokens of all pods, which live for ten minutes, and with signers while a user restarts the pods. No
// kubelet is killed, since a new one replaces all tokens.
func TestRotateByWaiting(t *testing.T) {
	skipUnlessLong(t)
	wait := refreshBy(v1alpha1.NodeRefreshWait)
	p := newCluster(t, highlyAvailable(v1alpha1.KeySourceFiles)+wait, withShortTokens)
	p.patience = 25 * time.Minute
	others := victimsBut("kubelet")
	p.rotateUnderFaults(t, 2, others, mostKills)

	p.update(t, highlyAvailable(v1alpha1.KeySourceExternal)+wait)
	p.rotateUnderFaults(t, 3, others, mostKills, func() { p.restartPods(t) })
	p.expectNoRefusals(t)
	p.end(t)
}

// withShortTokens has the pods of the probe ask for tokens of ten minutes, the shortest that there are.
func withShortTokens(manifests []byte) []byte {
	return regexp.MustCompile(`expirationSeconds: \d+`).ReplaceAll(manifests, []byte("expirationSeconds: 600"))
}

// restartPods restarts the pods of the probe once a rotation waits for their tokens.
func (p *place) restartPods(t *testing.T) {
	t.Helper()
	p.within(p.patience, "waiting for the rotation to wait for pods", func(context.Context) error {
		waiting := p.cluster("e2e").Status.KSASigningKey.WaitingFor
		if !strings.Contains(waiting, " to get a token of key version ") {
			return fmt.Errorf("it waits for %q", waiting)
		}
		return nil
	})
	out, err := p.kubectl(t, p.userKubeconfig("e2e"), "-n", probeNamespace, "rollout", "restart", "deployment")
	if err != nil {
		t.Fatalf("restarting the pods: %v\n%s", err, out)
	}
}
