package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

// TestKubeadmLong rotates the keys of three API servers behind a load balancer, while processes are killed, and while
// the owner of the cluster does what owners do: a control-plane node joins, another is rebooted, and kubeadm writes the
// manifests again.
func TestKubeadmLong(t *testing.T) {
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it takes tens of minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
	k := newSelfManaged(t, 3, 2)
	k.install()
	k.startProbe()
	k.create()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	killed := k.startKilling(seed)
	k.rotate(2, k.join)
	k.useSource(v1alpha1.KeySourceExternal)
	k.upgrade()
	k.rotate(3, k.reboot)
	k.rotate(4, nothing)
	t.Logf("killed %v", killed())
	k.release()
	k.expectKeysGone()
	k.expectNoRefusals()
}

// join has one more control-plane node join, once the rotation has begun.
func (k *selfManaged) join() {
	k.t.Helper()
	k.awaitBegun()
	const name = "cp-4"
	k.Must(k.Start(k.t.Context(), name, kubeadm.ControlPlane))
	k.until("the certificates to be uploaded", func(ctx context.Context) error { return k.UploadCerts(ctx, k.controlPlanes[0]) })
	k.until("a control-plane node to join", func(ctx context.Context) error { return k.Join(ctx, name, kubeadm.ControlPlane) })
	k.controlPlanes = append(k.controlPlanes, name)
}

// reboot ends a control-plane node as if its power failed, once the rotation has begun, and starts it again.
func (k *selfManaged) reboot() {
	k.t.Helper()
	k.awaitBegun()
	name := k.controlPlanes[1]
	k.Must(k.Halt(name))
	k.Must(k.Start(k.t.Context(), name, kubeadm.ControlPlane))
}

// awaitBegun waits until two key versions are stored.
func (k *selfManaged) awaitBegun() {
	k.t.Helper()
	k.until("the rotation to begin", func(ctx context.Context) error {
		uc, err := k.cluster(ctx)
		if err == nil && len(uc.Status.KSASigningKey.Keys) < 2 {
			err = errors.New("one key version is stored")
		}
		return err
	})
}

// upgrade has kubeadm write the manifests of a node again, which then reads its keys from files until Keyturn converts it
// once more.
func (k *selfManaged) upgrade() {
	k.t.Helper()
	done := k.stage("kubeadm upgrade apply, and its conversion")
	k.until("kubeadm upgrade apply", func(ctx context.Context) error {
		_, err := k.Run(ctx, k.controlPlanes[0], "kubeadm", "upgrade", "apply", "--force", "--yes",
			"--ignore-preflight-errors=all", kubetest.Version)
		return err
	})
	k.awaitSource(v1alpha1.KeySourceExternal)
	done()
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
