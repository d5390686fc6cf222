package e2e

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/capi"
)

// TestClusterAPIKills rotates with new machines alone, while the programs of Cluster API and the controller are killed.
func TestClusterAPIKills(t *testing.T) {
	skipUnlessLong(t)
	k := newCAPICluster(t, capiClusterOf(1))
	k.method = v1alpha1.MethodRollout
	k.adopt()
	k.startKilling()
	k.rotate(nothing)
	k.expectNoRefusals()
}

// TestClusterAPIKillsInPlace does it on the machines that there are: with files, in the conversion to signers, and with
// them. The cluster is of a ClusterClass. Neither its Cluster nor what makes its machines is changed.
func TestClusterAPIKillsInPlace(t *testing.T) {
	skipUnlessLong(t)
	c := capiClusterOf(1)
	c.Class = "local"
	k := newCAPICluster(t, c)
	before := k.generations()
	k.adopt()
	k.startKilling()
	k.rotate(nothing)
	k.useSigners()
	k.rotate(nothing)
	k.expectNoRefusals()
	if after := k.generations(); !maps.Equal(after, before) {
		t.Errorf("the generations of objects are %v, want those of before, %v", after, before)
	}
}

// generations are the generations of the Cluster and of what makes its machines.
func (k *capiCluster) generations() map[string]int64 {
	k.t.Helper()
	of := map[string]int64{}
	for _, kind := range []struct{ version, name string }{
		{capiCore, "Cluster"}, {capiCore, "MachineDeployment"}, {capiControlPlane, "KubeadmControlPlane"},
	} {
		for _, o := range k.list(kind.version, kind.name) {
			of[kind.name+" "+o.GetName()] = o.GetGeneration()
		}
	}
	if len(of) != 3 {
		k.t.Fatalf("there are %v, want one of each kind", of)
	}
	return of
}

// startKilling kills one program after the other until the test ends, at random moments from a seed that is logged, and
// starts it again.
func (k *capiCluster) startKilling() {
	k.t.Helper()
	seed := rand.Uint64()
	k.t.Logf("seed %d", seed)
	ctx, cancel := context.WithCancel(k.t.Context())
	random := rand.New(rand.NewPCG(seed, seed))
	victims := append(capi.Programs(), k.controller.spec.Name)
	var killed []string
	var done sync.WaitGroup
	done.Go(func() {
		for {
			victim := victims[random.IntN(len(victims))]
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second + time.Duration(random.Int64N(int64(40*time.Second)))):
			}
			if err := k.killOnce(victim); err != nil {
				k.t.Errorf("killing %s: %v", victim, err)
				return
			}
			killed = append(killed, victim)
		}
	})
	k.t.Cleanup(func() {
		cancel()
		done.Wait()
		k.t.Logf("killed %d times: %v", len(killed), killed)
		if len(killed) == 0 {
			k.t.Error("nothing was killed")
		}
	})
}

// killOnce kills a program and starts it again.
func (k *capiCluster) killOnce(program string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if program == k.controller.spec.Name {
		return errors.Join(k.controller.kill(ctx), k.controller.start())
	}
	if err := k.Kill(ctx, program); err != nil {
		return err
	}
	return k.Run(ctx)
}
