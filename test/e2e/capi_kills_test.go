package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/capi"
)

// TestClusterAPIKills rotates with new machines alone, while the programs of Cluster API and the controller are killed,
// by a seed that is logged.
func TestClusterAPIKills(t *testing.T) {
	skipUnlessLong(t)
	k := newCAPICluster(t, capiClusterOf(1))
	k.method = v1alpha1.MethodRollout
	k.adopt()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	killed := k.startKilling(seed)
	k.rotate(nothing)
	t.Logf("killed %v", killed())
	k.expectNoRefusals()
}

// startKilling kills one program after the other, at random moments from a seed, and starts it again. The function that
// it returns ends that and returns what was killed.
func (k *capiCluster) startKilling(seed uint64) (end func() []string) {
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
	stop := func() { cancel(); done.Wait() }
	k.t.Cleanup(stop)
	return func() []string { stop(); return killed }
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
