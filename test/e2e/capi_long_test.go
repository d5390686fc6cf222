package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/rotation"
)

// Versions of the APIs of Cluster API, and the annotation that pauses an object.
const (
	capiCore           = "cluster.x-k8s.io/v1beta2"
	capiControlPlane   = "controlplane.cluster.x-k8s.io/v1beta2"
	capiInfrastructure = "infrastructure.keyturn.dev/v1alpha1"

	capiPaused = "cluster.x-k8s.io/paused"
)

// TestClusterAPIScale rotates with files while a tool puts back the Secret with which machines start, and then while the
// control plane is scaled between one machine and three, in each step. It rotates four times with signers, and scales in
// one step of each. No token is refused.
func TestClusterAPIScale(t *testing.T) {
	skipUnlessLong(t)
	k := newCAPICluster(t, capiClusterOf(1))
	k.adopt()
	k.rotate(k.revert)
	sizes := []int{3, 1, 3, 1}
	k.rotate(func() {
		k.expectPolicy()
		for i, step := range steps {
			k.scaleIn(step, sizes[i])
		}
	})
	k.awaitServers(1)
	k.expectNoRefusals()
	k.useSigners()
	for i, step := range steps {
		k.rotate(func() { k.scaleIn(step, sizes[i]) })
		k.awaitServers(sizes[i])
	}
	k.expectNoRefusals()
}

// TestClusterAPIReplace rotates with new nodes instead of evicted pods, then while Cluster API replaces the only
// control-plane machine, and releases the cluster.
func TestClusterAPIReplace(t *testing.T) {
	skipUnlessLong(t)
	k := newCAPICluster(t, capiClusterOf(1))
	k.adopt()
	k.replace()
	k.expectNoRefusals()
	k.rotateAmidRollout()
	k.expectNoRefusals()
	k.release()
}

// TestClusterAPIOnDelete rotates with new nodes, where Cluster API replaces workers only when somebody deletes them. The
// rotation names them, and waits.
func TestClusterAPIOnDelete(t *testing.T) {
	skipUnlessLong(t)
	c := capiClusterOf(1)
	c.Workers = 2
	k := newCAPICluster(t, c)
	k.merge(k.Object(capiCore, "MachineDeployment", c), `{"spec":{"rollout":{"strategy":{"type":"OnDelete"}}}}`)
	k.adopt()
	before := k.nodeNames()
	k.patch(`{"spec":{"ksaSigningKey":{"nodeRefresh":"Replace"}}}`)
	k.await(k.version())
	k.rotate(func() {
		k.awaitWaitingFor("its strategy is OnDelete")
		for _, m := range k.machines("cluster.x-k8s.io/deployment-name") {
			k.delete(&m)
		}
	})
	for name := range k.nodeNames() {
		if before[name] {
			t.Errorf("node %s was not replaced", name)
		}
	}
	k.expectNoRefusals()
}

// rotateAmidRollout rotates while Cluster API replaces the only control-plane machine. The new machine has had its
// bootstrap data since before the rotation and gets its hardware late. The cluster is paused for a while too, in which
// nothing is written.
func (k *capiCluster) rotateAmidRollout() {
	k.t.Helper()
	k.patch(`{"spec":{"ksaSigningKey":{"nodeRefresh":"Evict"}}}`)
	k.await(k.version())
	old := k.controlPlaneMachines()[0].GetName()
	k.holdHardware(true)
	k.merge(k.Object(capiControlPlane, "KubeadmControlPlane", k.cluster),
		`{"spec":{"rollout":{"after":"`+time.Now().UTC().Format(time.RFC3339)+`"}}}`)
	pending := k.awaitPending()
	k.rotate(func() {
		k.awaitWaitingFor("Machine " + pending + " has its bootstrap data")
		k.pause(true)
		k.awaitWaitingFor("not to be paused")
		before := k.material().ResourceVersion
		k.holdHardware(false)
		k.giveHardware(pending)
		if after := k.material().ResourceVersion; after != before {
			k.t.Error("the Secret of a paused cluster was written")
		}
		k.pause(false)
		k.awaitReplaced(old)
		k.removeNode(old)
	})
	k.awaitServers(1)
}

// removeNode deletes a Node as its owner would, if Cluster API has given up deleting it.
func (k *capiCluster) removeNode(name string) {
	k.t.Helper()
	k.Eventually("Node "+name+" to be deleted", func(ctx context.Context) error {
		err := k.workload.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// revert puts back the keys with which machines started before the rotation, as a tool does that has a copy. The rotation
// stops, names it, and goes on when it is asked to.
func (k *capiCluster) revert() {
	k.t.Helper()
	before := k.material().Data
	var secret *corev1.Secret
	k.Eventually("machines to start with other keys", func(context.Context) error {
		if secret = k.material(); bytes.Equal(secret.Data[corev1.TLSCertKey], before[corev1.TLSCertKey]) {
			return errors.New("they start with those of before")
		}
		return nil
	})
	k.Eventually("putting them back", func(ctx context.Context) error {
		secret = k.material()
		secret.Data = before
		return k.Client.Update(ctx, secret, client.FieldOwner("argocd"))
	})
	k.awaitWaitingFor(`field manager "argocd"`)
	k.patch(`{"metadata":{"annotations":{"keyturn.dev/retry-change":"1"}}}`)
}

// awaitWaitingFor waits until the UserCluster waits for something, in words.
func (k *capiCluster) awaitWaitingFor(words string) {
	k.t.Helper()
	k.until("the rotation to wait for "+words, func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		if err != nil {
			return err
		}
		why := uc.Status.KSASigningKey.WaitingFor
		for _, c := range uc.Status.Conditions {
			why += "\n" + c.Message
		}
		if !strings.Contains(why, words) {
			return fmt.Errorf("it waits for %q", why)
		}
		return nil
	})
}

// awaitStep waits until the rotation to a key version has come to a step, and returns the one that it is in.
func (k *capiCluster) awaitStep(version int32, step rotation.Step) (at rotation.Step) {
	k.t.Helper()
	k.until("step "+string(step), func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		if err != nil {
			return err
		}
		key := uc.Status.KSASigningKey
		at = rotation.Step(key.Step)
		if at == "" && key.TokenVersion == version || slices.Index(steps, at) >= slices.Index(steps, step) {
			return nil
		}
		return fmt.Errorf("it is in step %q: %s", at, key.WaitingFor)
	})
	return at
}

// awaitReplaced waits until a control-plane Machine is gone, or none in particular, and as many as there should be are
// nodes.
func (k *capiCluster) awaitReplaced(name string) {
	k.t.Helper()
	what := cmp.Or(name, fmt.Sprintf("the control plane with %d", k.cluster.ControlPlanes))
	done := k.stage("replacing " + what)
	k.until(what+" to be replaced", func(context.Context) error {
		machines := k.controlPlaneMachines()
		if len(machines) != k.cluster.ControlPlanes || slices.ContainsFunc(machines, func(m unstructured.Unstructured) bool {
			return m.GetName() == name || nodeOf(m) == ""
		}) {
			return fmt.Errorf("there are %d machines, perhaps not all nodes", len(machines))
		}
		return nil
	})
	done()
}

// controlPlaneMachines are the control-plane Machines, by name.
func (k *capiCluster) controlPlaneMachines() []unstructured.Unstructured {
	k.t.Helper()
	return k.machines("cluster.x-k8s.io/control-plane")
}

// machines are the Machines with a label, by name.
func (k *capiCluster) machines(label string) []unstructured.Unstructured {
	k.t.Helper()
	return k.list(capiCore, "Machine", client.HasLabels{label})
}

// list lists objects of the management cluster, of a kind in the namespace of the cluster.
func (k *capiCluster) list(version, kind string, options ...client.ListOption) []unstructured.Unstructured {
	k.t.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(version)
	list.SetKind(kind + "List")
	k.Eventually("listing "+kind+"s", func(ctx context.Context) error {
		return k.Client.List(ctx, list, append(options, client.InNamespace(k.cluster.Namespace))...)
	})
	return list.Items
}

// delete deletes an object of the management cluster.
func (k *capiCluster) delete(o client.Object) {
	k.t.Helper()
	k.Eventually("deleting "+o.GetName(), func(ctx context.Context) error {
		return client.IgnoreNotFound(k.Client.Delete(ctx, o))
	})
}

func nodeOf(machine unstructured.Unstructured) string {
	name, _, _ := unstructured.NestedString(machine.Object, "status", "nodeRef", "name")
	return name
}

// awaitPending waits for a Machine with bootstrap data and no node, and returns its name.
func (k *capiCluster) awaitPending() (name string) {
	k.t.Helper()
	k.until("a Machine with bootstrap data and no node", func(context.Context) error {
		for _, m := range k.controlPlaneMachines() {
			data, _, _ := unstructured.NestedString(m.Object, "spec", "bootstrap", "dataSecretName")
			if data != "" && nodeOf(m) == "" {
				name = m.GetName()
				return nil
			}
		}
		return errors.New("there is none")
	})
	return name
}

// holdHardware has machines that are made from now on wait for their hardware, or no more.
func (k *capiCluster) holdHardware(hold bool) {
	k.t.Helper()
	value := "null"
	if hold {
		value = `""`
	}
	k.merge(k.Object(capiInfrastructure, "LocalMachineTemplate", k.cluster),
		`{"spec":{"template":{"metadata":{"annotations":{"`+capiPaused+`":`+value+`}}}}}`)
}

// giveHardware gives a machine the hardware that it waits for.
func (k *capiCluster) giveHardware(name string) {
	k.t.Helper()
	o := k.Object(capiInfrastructure, "LocalMachine", capi.Cluster{Namespace: k.cluster.Namespace, Name: name})
	k.merge(o, `{"metadata":{"annotations":{"`+capiPaused+`":null}}}`)
}

// pause pauses the cluster, or lets it go on.
func (k *capiCluster) pause(paused bool) {
	k.t.Helper()
	k.merge(k.Object(capiCore, "Cluster", k.cluster), fmt.Sprintf(`{"spec":{"paused":%t}}`, paused))
}

// merge patches an object of the management cluster.
func (k *capiCluster) merge(o *unstructured.Unstructured, patch string) {
	k.t.Helper()
	k.Eventually("patching "+o.GetKind()+" "+o.GetName(), func(ctx context.Context) error {
		return k.Client.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(patch)))
	})
}

// expectPolicy expects that the control plane is not changed while a key is rotated.
func (k *capiCluster) expectPolicy() {
	k.t.Helper()
	const patch = `{"spec":{"replicas":5}}`
	k.Eventually("a change of the control plane to be refused", func(ctx context.Context) error {
		o := k.Object(capiControlPlane, "KubeadmControlPlane", k.cluster)
		err := k.Client.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(patch)), client.DryRunAll)
		if err == nil {
			return errors.New("it is accepted")
		}
		if !strings.Contains(err.Error(), "cannot be changed while the KSA signing key") {
			return err
		}
		return nil
	})
}

// replace rotates with new nodes: no machine of before is left.
func (k *capiCluster) replace() {
	k.t.Helper()
	before := k.nodeNames()
	k.patch(`{"spec":{"ksaSigningKey":{"nodeRefresh":"Replace"}}}`)
	k.await(k.version())
	k.rotate(nothing)
	for name := range k.nodeNames() {
		if before[name] {
			k.t.Errorf("node %s was not replaced", name)
		}
	}
}

func (k *capiCluster) nodeNames() map[string]bool {
	k.t.Helper()
	names := map[string]bool{}
	k.Eventually("listing nodes", func(ctx context.Context) error {
		list, err := k.workload.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil {
			for _, n := range list.Items {
				names[n.Name] = true
			}
		}
		return err
	})
	return names
}

// release deletes the UserCluster. The cluster goes on with its key, and its Secret has no mark of Keyturn.
func (k *capiCluster) release() {
	k.t.Helper()
	done := k.stage("releasing")
	before := k.material()
	k.Eventually("the UserCluster to be deleted", func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		if err == nil {
			err = k.admin.Delete(ctx, uc)
		}
		return err
	})
	k.until("the UserCluster to be gone", func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it waits: %+v", uc.Status.Conditions)
		}
		return err
	})
	done()
	after := k.material()
	if !bytes.Equal(before.Data[corev1.TLSPrivateKeyKey], after.Data[corev1.TLSPrivateKeyKey]) {
		k.t.Error("the release has changed the key")
	}
	if _, marked := after.Labels[v1alpha1.LabelClusterUID]; marked {
		k.t.Errorf("the Secret has the labels %v", after.Labels)
	}
}

// scaleIn has Cluster API make or remove control-plane machines in a step of the rotation. A policy forbids that while a
// key is rotated, without the annotation that breaks the glass.
func (k *capiCluster) scaleIn(step rotation.Step, replicas int) {
	k.t.Helper()
	k.t.Logf("step %q: the control plane is scaled to %d", k.awaitStep(k.version(), step), replicas)
	o := k.Object(capiControlPlane, "KubeadmControlPlane", k.cluster)
	k.merge(o, fmt.Sprintf(
		`{"metadata":{"annotations":{%q:"a test"}},"spec":{"replicas":%d}}`, v1alpha1.AnnotationBreakGlass, replicas))
	k.merge(o, fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, v1alpha1.AnnotationBreakGlass))
	k.cluster.ControlPlanes = replicas
	k.awaitReplaced("")
}

// awaitServers waits until the UserCluster has so many API servers that serve. Cluster API may leave Nodes behind of
// machines that are gone.
func (k *capiCluster) awaitServers(want int) {
	k.t.Helper()
	done := k.stage(fmt.Sprintf("%d API servers", want))
	k.until(fmt.Sprintf("%d API servers", want), func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		serving := 0
		for _, s := range uc.Status.APIServers {
			if s.Ready {
				serving++
			}
		}
		if err == nil && serving != want {
			err = fmt.Errorf("there are %+v; %+v", uc.Status.APIServers, uc.Status.Conditions)
		}
		return err
	})
	k.await(k.version())
	done()
}
