package controller_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestCrash loses the memory of the controller after every second round: those of even number first, then the odd
// ones. That no legacy token is left is remembered from one round to the next and nowhere else.
func TestCrash(t *testing.T) {
	for parity := range 2 {
		t.Run(fmt.Sprint(parity), func(t *testing.T) {
			w := newWorld(t)
			rounds := 0
			crash := func(*v1alpha1.UserCluster) {
				if rounds++; rounds%2 == parity {
					w.restart()
				}
			}
			w.live(crash)
		})
	}
}

// live has a cluster created, rotated and deleted.
func (w *world) live(each func(*v1alpha1.UserCluster)) {
	w.Helper()
	blue := w.create("blue", threeServers)
	w.until(blue, isSettled, each)
	w.wantOnly(blue, 1)
	w.rotate(blue)
	w.until(blue, isSettled, each)
	w.wantOnly(blue, 2)
	w.delete(blue)
	w.until(blue, isGone, each)
	w.wantNothing(blue)
}

// TestFailingPorts fails about every second write of the store and of the adapters, before or after it took effect.
func TestFailingPorts(t *testing.T) {
	for name, fault := range map[string]faults.Fault{
		"failed": faults.Failed, "failed but persisted": faults.FailedButPersisted,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.failing = true
			w.fault = everySecond(fault, faults.None)
			next, all := everySecond(fault, faults.None), []faults.Fault{fault}
			for range maxRounds {
				all = append(all, next())
			}
			w.keys.Fail(all...)
			w.live(func(*v1alpha1.UserCluster) {})
		})
	}
}

// TestFailingAdminCluster fails about every second write that is to reach the API server of the admin cluster:
// Secrets, finalizer and status.
func TestFailingAdminCluster(t *testing.T) {
	for name, fault := range map[string]kubetest.Fault{
		"request lost": kubetest.LoseRequest, "answer lost": kubetest.LoseAnswer, "conflict": http.StatusConflict,
	} {
		t.Run(name, func(t *testing.T) {
			next := everySecond(fault, kubetest.None)
			w := newFaultyWorld(t, kubetest.Inject(controllerConfig, func(r *http.Request) kubetest.Fault {
				if r.Method == http.MethodGet {
					return kubetest.None
				}
				return next()
			}))
			w.failing = true
			w.live(func(*v1alpha1.UserCluster) {})
		})
	}
}

// everySecond returns one of two values at even odds, in the same order in every test run.
func everySecond[T any](one, other T) func() T {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	return func() T {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(2) == 0 {
			return one
		}
		return other
	}
}
