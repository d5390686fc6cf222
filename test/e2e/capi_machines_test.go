package e2e

import (
	"fmt"
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
)

// capiRemediate is the annotation by which a MachineHealthCheck replaces a Machine at once.
const capiRemediate = "cluster.x-k8s.io/remediate-machine"

// TestClusterAPIMachines rotates the key of a control plane of three while its machines are replaced: one in each step,
// in Refresh by a MachineHealthCheck.
func TestClusterAPIMachines(t *testing.T) {
	skipUnlessLong(t)
	k := newCAPICluster(t, capiClusterOf(3))
	k.adopt()
	k.rotate(func() {
		for _, step := range steps {
			k.replaceIn(step)
		}
	})
	k.awaitServers(3)
	k.expectNoRefusals()
}

// TestClusterAPIMachinesWithSigners does it with signers, where a rotation is over before a machine is replaced: each
// machine is replaced in a rotation of its own.
func TestClusterAPIMachinesWithSigners(t *testing.T) {
	skipUnlessLong(t)
	k := newCAPICluster(t, capiClusterOf(3))
	k.adopt()
	k.useSigners()
	for _, step := range steps {
		k.rotate(func() { k.replaceIn(step) })
		k.awaitServers(3)
	}
	k.expectNoRefusals()
}

// replaceIn has a control-plane machine replaced in a step of the rotation.
func (k *capiCluster) replaceIn(step rotation.Step) {
	k.t.Helper()
	at := k.awaitStep(k.version(), step)
	if step == rotation.StepRefresh {
		k.t.Logf("step %q: a MachineHealthCheck replaces a machine", at)
		k.remediate()
		return
	}
	name := k.deleteMachine()
	k.t.Logf("step %q: Machine %s is deleted", at, name)
	k.awaitReplaced(name)
}

// deleteMachine deletes a control-plane Machine, and returns its name.
func (k *capiCluster) deleteMachine() string {
	k.t.Helper()
	machine := k.controlPlaneMachines()[0]
	k.delete(&machine)
	return machine.GetName()
}

// remediate has a MachineHealthCheck replace a machine.
func (k *capiCluster) remediate() {
	k.t.Helper()
	k.apply(k.Client, fmt.Appendf(nil, `apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineHealthCheck
metadata: {namespace: %[1]s, name: control-plane}
spec:
  clusterName: %[2]s
  selector: {matchLabels: {cluster.x-k8s.io/control-plane: ""}}
  checks:
    nodeStartupTimeoutSeconds: 0
    unhealthyNodeConditions: [{type: Ready, status: "False", timeoutSeconds: 3600}]
`, k.cluster.Namespace, k.cluster.Name))
	machine := k.controlPlaneMachines()[0]
	k.merge(&machine, `{"metadata":{"annotations":{"`+capiRemediate+`":""}}}`)
	k.awaitReplaced(machine.GetName())
}
