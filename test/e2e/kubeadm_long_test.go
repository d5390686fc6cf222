package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/rotation"
)

// TestKubeadmLong rotates the keys of three API servers behind a load balancer, with files and with signers, while the
// owner of the cluster does what owners do, and while processes are killed. Each part begins and ends with a cluster in
// which nothing is left to do, so that it can be run alone: see docs/testing.md.
func TestKubeadmLong(t *testing.T) {
	skipUnlessLong(t)
	k := newSelfManaged(t, kubeadm.Options{}, 3, 2)
	k.patience = 30 * time.Minute
	k.removeNewcomers()
	k.install()
	k.startProbe()
	k.create()
	events := []event{k.joining(), k.upgrading(), k.renewing(), k.rebooting()}
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		k.part(string(source), func() {
			k.useSource(source)
			k.rotate(nothing)
		})
		for i := range steps {
			// Each event happens in each step once, in one of these parts.
			order := append(slices.Clone(events[i:]), events[:i]...)
			k.part(fmt.Sprintf("%s-events-%d", source, i+1), func() { k.rotateAmid(source, order) })
		}
		k.part(string(source)+"-off", func() { k.rotateWithout(source) })
		k.part(string(source)+"-deleted", func() { k.rotateInAbsence(source) })
	}
	k.part("kills", k.rotateAmidKills)
	k.part("release", func() {
		k.rotate(nothing)
		k.expectSecrecy()
		k.release()
		k.expectSecrecy()
	})
}

// steps are the steps of a rotation in which something happens.
var steps = []rotation.Step{rotation.StepPublish, rotation.StepSwitch, rotation.StepRefresh, rotation.StepRetire}

// event is what the owner of a cluster does while its key is rotated.
type event struct {
	name string
	// before is done before the rotation, and after when it is complete; nil: nothing.
	before, after func()
	during        func(context.Context) error
}

// planned is an event, and the step in which it begins.
type planned struct {
	event
	step rotation.Step
}

// rotateAmid has one event happen in each step. With files, all happen in one rotation, each as soon as the one before
// is over. With signers a rotation is over before most events are, so each of them gets a rotation of its own.
func (k *selfManaged) rotateAmid(source v1alpha1.KeySource, events []event) {
	k.t.Helper()
	k.useSource(source)
	var all []planned
	for i, e := range events {
		all = append(all, planned{e, steps[i]})
	}
	if source == v1alpha1.KeySourceFiles {
		k.rotateDuring(source, all)
		return
	}
	for _, p := range all {
		k.rotateDuring(source, []planned{p})
	}
}

// rotateDuring rotates the key, and has events happen in its steps.
func (k *selfManaged) rotateDuring(source v1alpha1.KeySource, events []planned) {
	k.t.Helper()
	for _, e := range events {
		if e.before != nil {
			e.before()
		}
	}
	version := k.version() + 1
	k.rotate(func() {
		for i, e := range events {
			at := k.awaitStep(version, e.step)
			if i == 0 && at != e.step {
				k.t.Errorf("%s begins in step %q, want %q", e.name, at, e.step)
			}
			done := k.stage(fmt.Sprintf("%s, begun in step %q", e.name, at))
			k.Must(e.during(k.t.Context()))
			done()
		}
		k.wake(version) // an event may have outlasted the rotation
	})
	k.awaitSource(source)
	for _, e := range events {
		if e.after != nil {
			e.after()
		}
	}
}

// wake has Keyturn observe the cluster now. What happens after a rotation is else noticed by the next proof of a
// settled cluster, ten minutes later at most.
func (k *selfManaged) wake(version int32) {
	k.t.Helper()
	k.patch(fmt.Sprintf(`{"metadata":{"annotations":{"keyturn.example/after-version":"%d"}}}`, version))
}

// awaitStep waits until the rotation to a key version has come to a step, and returns the one that it is in.
func (k *selfManaged) awaitStep(version int32, step rotation.Step) (at rotation.Step) {
	k.t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		uc, err := k.cluster(k.t.Context())
		if err == nil {
			key := uc.Status.KSASigningKey
			at = rotation.Step(key.Step)
			if at == "" && key.TokenVersion == version || slices.Index(steps, at) >= slices.Index(steps, step) {
				return at
			}
			err = fmt.Errorf("it is in step %q", at)
		}
		if time.Since(began) > k.patience {
			k.keepState()
			k.t.Fatalf("waiting for step %s: %v", step, err)
		}
	}
}

// newcomer is the control-plane node that joins.
const newcomer = "cp-4"

// joining has a control-plane node join, first with what a node of before the rotation has uploaded.
func (k *selfManaged) joining() event {
	return event{
		name: "kubeadm join",
		before: func() {
			k.Must(k.Start(k.t.Context(), newcomer, kubeadm.ControlPlane))
			k.upload()
		},
		during: func(ctx context.Context) error {
			err := k.Join(ctx, newcomer, kubeadm.ControlPlane)
			for range steps { // each of which may delete what was uploaded before it
				if err == nil || !strings.Contains(err.Error(), `"kubeadm-certs" was not found`) {
					break
				}
				k.t.Log("what was uploaded is gone: uploading again")
				k.upload()
				err = k.Join(ctx, newcomer, kubeadm.ControlPlane)
			}
			k.controlPlanes = append(k.controlPlanes, newcomer)
			return err
		},
		after: k.removeNewcomers,
	}
}

func (k *selfManaged) upload() {
	k.t.Helper()
	k.until("the certificates to be uploaded", func(ctx context.Context) error {
		return k.UploadCerts(ctx, k.controlPlanes[0])
	})
}

// removeNewcomers removes the node that joined, as its owner would.
func (k *selfManaged) removeNewcomers() {
	k.t.Helper()
	_, exists, err := k.Machine(newcomer)
	k.Must(err)
	if !exists {
		return
	}
	k.Must(k.Start(k.t.Context(), newcomer, kubeadm.ControlPlane))
	if _, err := k.ReadFile(newcomer, "/etc/kubernetes/manifests/etcd.yaml"); err == nil {
		k.until("kubeadm reset", func(ctx context.Context) error {
			_, err := k.Run(ctx, newcomer, "kubeadm", "reset", "--force", "--cri-socket=unix:///run/containerd/containerd.sock")
			return err
		})
	}
	k.deleteNode(newcomer)
	k.Must(k.Remove(k.t.Context(), newcomer))
	k.controlPlanes = slices.DeleteFunc(k.controlPlanes, func(name string) bool { return name == newcomer })
}

// deleteNode deletes the Node of a machine.
func (k *selfManaged) deleteNode(name string) {
	k.t.Helper()
	k.Eventually("Node "+name+" to be deleted", func(ctx context.Context) error {
		err := k.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// upgrading has kubeadm write the manifests of a node again, which then reads its keys from files until Keyturn
// converts it once more.
func (k *selfManaged) upgrading() event {
	return event{name: "kubeadm upgrade apply", during: func(ctx context.Context) error {
		_, err := k.Run(ctx, k.controlPlanes[0], "kubeadm", "upgrade", "apply", "--force", "--yes",
			"--ignore-preflight-errors=all", kubetest.Version)
		return err
	}}
}

// renewing has kubeadm renew all certificates of a node, whose control plane is then started again.
func (k *selfManaged) renewing() event {
	return event{name: "kubeadm certs renew all", during: func(ctx context.Context) error {
		_, err := k.Run(ctx, k.controlPlanes[1], "/bin/sh", "-c",
			"kubeadm certs renew all && pkill -f '^(kube-apiserver|kube-controller-manager|kube-scheduler|etcd) '")
		return err
	}}
}

// rebooting ends a node as if its power failed, and starts it again.
func (k *selfManaged) rebooting() event {
	return event{name: "a reboot", during: func(ctx context.Context) error {
		name := k.controlPlanes[2]
		k.switchOff(name)
		return k.Start(ctx, name, kubeadm.ControlPlane)
	}}
}

// switchOff ends a machine as if its power failed.
func (k *selfManaged) switchOff(name string) {
	k.t.Helper()
	k.Must(k.Halt(name))
	k.Eventually("machine "+name+" to end", func(context.Context) error {
		m, _, err := k.Machine(name)
		if err == nil && m.Running {
			err = errors.New("it runs")
		}
		return err
	})
}

// rotateWithout rotates the key while a control-plane node is off. The rotation names it, and goes on when it is back.
func (k *selfManaged) rotateWithout(source v1alpha1.KeySource) {
	k.t.Helper()
	k.useSource(source)
	name := k.controlPlanes[2]
	k.switchOff(name)
	k.rotate(func() {
		k.until("the rotation to name the node that is off", func(ctx context.Context) error {
			uc, err := k.cluster(ctx)
			if err == nil && !strings.Contains(uc.Status.KSASigningKey.WaitingFor, name) {
				err = fmt.Errorf("it waits for %q", uc.Status.KSASigningKey.WaitingFor)
			}
			return err
		})
		k.Must(k.Start(k.t.Context(), name, kubeadm.ControlPlane))
	})
}

// rotateInAbsence rotates the key while a control-plane node is off whose Node was deleted. It comes back after the
// rotation, with keys from before, and without the label and the taint that kubeadm gave it. Once its owner has
// labelled it, it gets the keys that all have. Until then its API server refuses tokens, which nobody could prevent.
func (k *selfManaged) rotateInAbsence(source v1alpha1.KeySource) {
	k.t.Helper()
	k.useSource(source)
	whole := slices.Clone(k.controlPlanes)
	name := whole[2]
	k.switchOff(name)
	k.deleteNode(name)
	k.controlPlanes = whole[:2]
	k.rotate(nothing)
	k.requester.expectNoRefusals(k.t)
	k.expectNoRefusals()
	k.Must(k.Start(k.t.Context(), name, kubeadm.ControlPlane))
	k.until("pods to reach the API server of the node", func(ctx context.Context) error {
		list, err := k.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
		if err == nil && len(list.Endpoints) != len(whole) {
			err = fmt.Errorf("they reach %d", len(list.Endpoints))
		}
		return err
	})
	k.wake(k.version())
	k.until("Keyturn to ask for the label of the node", func(ctx context.Context) error {
		uc, err := k.cluster(ctx)
		if err == nil && !strings.Contains(uc.Status.KSASigningKey.WaitingFor, "kubectl label node "+name) {
			err = fmt.Errorf("it waits for %q", uc.Status.KSASigningKey.WaitingFor)
		}
		return err
	})
	done := k.stage("giving the keys to a node that came back, from the moment that it is labelled")
	k.Eventually("the node to be labelled and tainted", func(ctx context.Context) error {
		const role = "node-role.kubernetes.io/control-plane"
		_, err := k.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil,
			`{"metadata":{"labels":{%q:""}},"spec":{"taints":[{"key":%q,"effect":"NoSchedule"}]}}`, role, role),
			metav1.PatchOptions{})
		return err
	})
	k.controlPlanes = whole
	k.await(k.version())
	k.awaitSource(source)
	done()
	k.signingKey()
	k.forgiveRefusals()
}

// rotateAmidKills rotates with files, converts, and rotates with signers, while processes are killed.
func (k *selfManaged) rotateAmidKills() {
	k.t.Helper()
	k.useSource(v1alpha1.KeySourceFiles)
	seed := rand.Uint64()
	k.t.Logf("seed %d", seed)
	killed := k.startKilling(seed)
	k.rotate(nothing)
	k.useSource(v1alpha1.KeySourceExternal)
	k.rotate(nothing)
	k.t.Logf("killed %v", killed())
}

// killable are the programs of a control-plane node and of workers, by the beginnings of their command lines.
var killable = []struct{ kind, command string }{
	{"controller", "^/keyturn-controller "},
	{"agent", "^/keyturn-agent run"},
	{"signer", "^/keyturn-signer "},
	{"API server", "^kube-apiserver "},
	{"kube-controller-manager", "^kube-controller-manager "},
	{"etcd", "^etcd "},
	{"kubelet", "^/opt/keyturn/kubelet "},
}

// startKilling kills programs at random moments from a seed, each kind in turn and on a random machine, until the
// function that it returns is called, which tells what was killed.
func (k *selfManaged) startKilling(seed uint64) (end func() []string) {
	ctx, cancel := context.WithCancel(k.t.Context())
	random := rand.New(rand.NewPCG(seed, seed))
	machines := append([]string{"worker-1", "worker-2"}, k.controlPlanes...)
	var killed []string
	var done sync.WaitGroup
	done.Go(func() {
		for round := 0; ; round++ {
			victim := killable[round%len(killable)]
			pause := 10*time.Second + time.Duration(random.Int64N(int64(30*time.Second)))
			first := random.IntN(len(machines))
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			for i := range machines {
				name := machines[(first+i)%len(machines)]
				if _, err := k.Run(ctx, name, "pkill", "-KILL", "-f", victim.command); err == nil {
					killed = append(killed, fmt.Sprintf("%s on %s", victim.kind, name))
					break
				}
			}
		}
	})
	return func() []string {
		cancel()
		done.Wait()
		return killed
	}
}
